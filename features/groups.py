"""The declaration of features, in groups: what each one is called, means, and is computed from.

Three kinds of group: features computed from states and the request, columns of the data set that
pass through unchanged, and embeddings. `features/reading.py` compiles the first two.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.spec import Embedding, State
from services.platform.types import Floats


@dataclass(frozen=True)
class Feature:
    """One feature.

    Attributes:
        name: Its name in every vector, model card and table.
        documentation: What it is, in a sentence.
        phrase: What it is, in a few words, for the reasons of a decision.
        value: How it is computed: an expression over the request's features, the group's states
            and `features.formulas`. `customer.amount` is the sum of a measure as of the request;
            `customer.last_seen` a field of the row's header.
        half_life: Name of the half-life of the sums it reads, None if it reads none.
    """

    name: str
    documentation: str
    phrase: str
    value: str
    half_life: str | None = None


def for_each(half_lives: Iterable[str], feature: Feature) -> tuple[Feature, ...]:
    """The same feature with several half-lives, which replace `{h}` in its texts.

    >>> [f.name for f in for_each(("1h", "7d"), Feature("spent_{h}", "", "", "c.amount"))]
    ['spent_1h', 'spent_7d']
    """
    return tuple(
        Feature(
            name=feature.name.format(h=half_life),
            documentation=feature.documentation.format(h=half_life),
            phrase=feature.phrase.format(h=half_life),
            value=feature.value,
            half_life=half_life,
        )
        for half_life in half_lives
    )


@dataclass(frozen=True)
class Group:
    """A group of features computed from states and the request.

    Attributes:
        name: Also the name of its Feast on-demand feature view.
        documentation: What it describes, in a sentence.
        states: The states it reads, by their names in its expressions.
        features: Its features, in the order of the vector.
    """

    name: str
    documentation: str
    states: Mapping[str, State]
    features: tuple[Feature, ...]


@dataclass(frozen=True)
class Column:
    """A column of a data set that is a feature as it is.

    Attributes:
        name: Name of the column and of the feature.
        documentation: What it is, in a sentence.
        phrase: What it is, in a few words.
        categories: The values of a category; its feature is the position here, NaN for another
            value. Empty for a number.
    """

    name: str
    documentation: str
    phrase: str
    categories: tuple[str, ...] = ()

    @cached_property
    def _codes(self) -> dict[str | None, float]:
        return {category: float(code) for code, category in enumerate(self.categories)}

    def encode(self, values: Sequence[float | str | None]) -> Floats:
        """N values of the column as the feature (N,), NaN where missing or not known.

        >>> Column("size", "", "", ("S", "M")).encode(["M", "S", "XL", None])
        array([ 1.,  0., nan, nan])
        """
        if self.categories:
            found = [self._codes.get(v if v is None else str(v), np.nan) for v in values]
            return np.array(found, dtype=np.float64)
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


@dataclass(frozen=True)
class Passthrough:
    """A group of a data set's own columns, numbers and categories, which pass through unchanged.

    They come with the request, behind its own features, encoded by `Column.encode`.

    Attributes:
        name: Also the name of its Feast on-demand feature view.
        documentation: What it describes, in a sentence.
        columns: Its columns, in the order of the vector.
    """

    name: str
    documentation: str
    columns: tuple[Column, ...]

    @property
    def states(self) -> Mapping[str, State]:
        """None: it reads the request only."""
        return {}

    @property
    def features(self) -> tuple[Feature, ...]:
        """A feature a column."""
        return tuple(Feature(c.name, c.documentation, c.phrase, c.name) for c in self.columns)


@dataclass(frozen=True)
class EmbeddingGroup:
    """A group of embeddings' values, `<embedding>_<number>`.

    Attributes:
        name: Also the name of its Feast on-demand feature view.
        documentation: What it describes, in a sentence.
        embeddings: The embeddings, in the order of the vector.
    """

    name: str
    documentation: str
    embeddings: tuple[Embedding, ...]

    @property
    def features(self) -> tuple[Feature, ...]:
        """A feature a value."""
        return tuple(
            Feature(
                name=f"{view.name}_{i}",
                documentation=f"Value {i} of the embedding of {' and '.join(view.keys)}.",
                phrase=view.phrase,
                value=f"{view.name}.value_{i}",
            )
            for view in self.embeddings
            for i in range(view.size)
        )
