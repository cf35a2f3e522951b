"""All features of a design as one declared set, with the hash that names it.

The hash covers whatever changes the meaning of a vector: names and order, states, measures,
half-lives, expressions and the formulas they call; not documentation. It is on model cards and on
each logged decision. Readers leave out the decisions of another set (`features/spec.py` says the
same of rows) and select by name where only the order differs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from features import expressions
from features.formulas import FORMULAS, definition
from features.groups import EmbeddingGroup, Feature, Group, Passthrough
from features.spec import HALF_LIVES, HEADER, Embedding, State, View, digest


@dataclass(frozen=True)
class FeatureSet:
    """All features of a design.

    Attributes:
        design: Name of the design, and of its feature service.
        event_columns: Columns of an event that measures may read.
        request: Names of the features that come with a request, float64.
        time: The one of them that is the time of the request, UTC seconds.
        states: Accumulators, in the order in which they are folded; each becomes a feature view
            with one column, the row.
        groups: Each becomes an on-demand feature view.
        embedding_groups: Groups that read embeddings. They are part of a second feature service
            only, for the models that ask for them.
        transform: "module:function", called with (group, frame of states and request features);
            returns the group's features as a frame. A string, since Feast stores it in its
            registry.
    """

    design: str
    event_columns: tuple[str, ...]
    request: tuple[str, ...]
    time: str
    states: tuple[State, ...]
    groups: tuple[Group | Passthrough, ...]
    transform: str
    embedding_groups: tuple[EmbeddingGroup, ...] = ()

    def __post_init__(self) -> None:
        """Check every name. ValueError names the declaration that is wrong."""
        _check_unique("feature", self.features)
        _check_unique("state", [state.name for state in self.states])
        for state in self.states:
            self._check_state(state)
        for group in self.groups:
            self._check_group(group)
        if self.time not in self.request:
            raise ValueError(f"the time {self.time!r} is not among the request's features")

    @cached_property
    def request_features(self) -> tuple[str, ...]:
        """The features that come with a request, those that pass through last."""
        passing = (g for g in self.groups if isinstance(g, Passthrough))
        return (*self.request, *(column.name for group in passing for column in group.columns))

    @cached_property
    def embeddings(self) -> tuple[Embedding, ...]:
        """The embeddings of all groups, in the order of the vector."""
        return tuple(view for group in self.embedding_groups for view in group.embeddings)

    @property
    def views(self) -> tuple[View, ...]:
        """States and embeddings."""
        return (*self.states, *self.embeddings)

    @cached_property
    def tabular(self) -> tuple[str, ...]:
        """Names of the features without embeddings, in the order of the vector."""
        return tuple(f.name for group in self.groups for f in group.features)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of all features, in the order of the vector."""
        return (*self.tabular, *(f.name for g in self.embedding_groups for f in g.features))

    @cached_property
    def declared(self) -> Mapping[str, Feature]:
        """The declaration of each feature, by name."""
        return {f.name: f for group in self._all_groups() for f in group.features}

    @cached_property
    def group_features(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the features by group, without embeddings."""
        return {group.name: tuple(f.name for f in group.features) for group in self.groups}

    def columns(self, names: tuple[str, ...]) -> list[int]:
        """Positions of features in a vector. ValueError for one that is not of this set."""
        return [self.features.index(name) for name in names]

    @cached_property
    def hash(self) -> str:
        """The hash of this set, 16 hex digits."""
        used = {name for f in self.declared.values() for name in expressions.calls(f.value)}
        return digest(
            {
                "request": [self.request_features, self.time],
                "views": [view.hash for view in self.views],
                "features": [_meaning(g, f) for g in self._all_groups() for f in g.features],
                "categories": [
                    [c.name, c.categories]
                    for group in self.groups
                    if isinstance(group, Passthrough)
                    for c in group.columns
                ],
                "formulas": [definition(name) for name in sorted(used)],
            }
        )

    def _all_groups(self) -> Iterator[Group | Passthrough | EmbeddingGroup]:
        yield from self.groups
        yield from self.embedding_groups

    def _check_state(self, state: State) -> None:
        names = [measure.name for measure in state.measures]
        _check_unique(f"measure of {state.name}", names)
        if taken := set(names) & set(HEADER):
            raise ValueError(f"{state.name}: {taken.pop()!r} is a field of the row's header")
        earlier = self.states[: self.states.index(state)]
        for measure in state.measures:
            first = ("first",) if measure.first_of else ()
            expressions.check(measure.value, (*self.event_columns, *first))
            if measure.first_of is not None and measure.first_of not in earlier:
                raise ValueError(f"{state.name}: {measure.first_of.name} must come before it")

    def _check_group(self, group: Group | Passthrough) -> None:
        for state in group.states.values():
            if state not in self.states:
                raise ValueError(f"{group.name}: {state.name} is not a state of this set")
        for feature in group.features:
            if feature.half_life not in (None, *HALF_LIVES):
                raise ValueError(f"{feature.name}: no half-life {feature.half_life!r}")
            sums = {
                (owner, measure.name)
                for owner, state in group.states.items()
                for measure in state.measures
                if feature.half_life is not None
            }
            header = {(owner, name) for owner in group.states for name in HEADER}
            expressions.check(feature.value, self.request_features, sums | header, FORMULAS)


def _meaning(group: Group | Passthrough | EmbeddingGroup, feature: Feature) -> list[str | None]:
    """What a feature's values depend on, besides the views and formulas."""
    if isinstance(group, EmbeddingGroup):
        return [feature.name, feature.value, None]

    def full_name(owner: str, field: str) -> str:
        return f"{group.states[owner].name}.{field}"

    return [feature.name, expressions.translate(feature.value, full_name), feature.half_life]


def _check_unique(kind: str, names: tuple[str, ...] | list[str]) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{kind} {twice.pop()!r} is declared twice")
