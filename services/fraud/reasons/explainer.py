"""Explains a model's score of one vector: contributions of the feature groups, and the reasons."""

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from services.fraud.features.states import FEATURE_SET, FEATURES
from services.fraud.problem import DECLINE, CostModel
from services.fraud.reasons.cart import ItemChange, item_changes
from services.fraud.reasons.forest import Forest
from services.fraud.reasons.shapley import coalitions, log_odds, shapley_values
from services.fraud.reasons.usual import Usual, genuine_medians, usual_values
from services.fraud.reasons.words import sentence
from services.platform.models.attachments import attachment
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.tabular import TabularModel, pad_sets, without_padding
from services.platform.types import Booleans, Floats, Floats32

ATTACHMENT = "reasons"
CART = "cart"
MAX_REASONS, MAX_FEATURES = 4, 2
# A group that adds less than this to the log-odds, a fiftieth of the odds, is no reason.
MIN_CONTRIBUTION = 0.02
_FOREST, _MIX = "forest.", "mix."
_CALIBRATED = 1e-4
_NEAR = 0.05
_MAX_FOR_MIX = 500

Sets = Mapping[str, Floats32]


class NotExplained(ValueError):
    """The model file does not hold what its explanation needs."""


@dataclass(frozen=True)
class FeatureReason:
    """A feature that led a group's contribution."""

    feature: str
    text: str
    value: float
    usual: float
    own: bool


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        group: The feature group.
        contribution: What it adds to the log-odds of fraud.
        text: In words.
        features: What led it.
        items: For the cart, what the log-odds lose without each item.
        parties: For the graph, the nearest charged-back parties.
    """

    group: str
    contribution: float
    text: str
    features: list[FeatureReason] = field(default_factory=list)
    items: list[ItemChange] = field(default_factory=list)
    parties: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Explanation:
    """The explanation of one score.

    Attributes:
        base: Log-odds that the contributions are added to.
        log_odds: Log-odds of the score, before any calibration.
        contributions: By feature group.
        gap: How far base and contributions are from the log-odds; rounding.
        reasons: At most `MAX_REASONS`, the largest first.
        note: What a reader must know besides; empty if nothing.
    """

    base: float
    log_odds: float
    contributions: dict[str, float]
    gap: float
    reasons: list[Reason]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Its fields, for orjson, which writes dataclasses: copying the reasons took 110 us."""
        return dict(self.__dict__)


def explanation_file(
    candidate: Candidate, train: Examples, mix: Mapping[str, int] | None = None
) -> bytes:
    """What a candidate's model file carries for its explanation.

    Args:
        train: Its training examples.
        mix: By feature group, how often it came first among declines.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        "medians": genuine_medians(train.vectors, train.positive)
    }
    for name, items in train.sets.items():
        arrays[f"set.{name}"] = _usual_set(items[~train.positive])
    arrays.update({_FOREST + k: v for k, v in candidate.explanation().items()})
    arrays.update({_MIX + group: np.array(count) for group, count in (mix or {}).items()})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _usual_set(sets: Floats32) -> Floats32:
    """The set (M, K) of the first of N rows (N, M, K) that has the median number of items."""
    count = (sets[:, :, 0] >= 0).sum(axis=1)
    row = int(np.argmin(np.abs(count - np.median(count))))
    return sets[row, : max(int(count[row]), 1)]


class Explainer:
    """Explains the scores of one model."""

    def __init__(self, model: TabularModel) -> None:
        """Read what the model's file carries.

        Raises:
            NotExplained: it was registered before files carried that.
        """
        data = attachment(model.metadata, ATTACHMENT)
        if data is None:
            raise NotExplained(
                f"{model.card.label} was trained before models explained themselves: "
                "`whiteboard retrain fraud` makes one that does"
            )
        with np.load(io.BytesIO(data)) as stored:
            arrays = {name: stored[name] for name in stored.files}
        self._model = model
        self._medians = arrays["medians"]
        # How often each group came first among declines of training: see `reasons/mix.py`.
        self.mix = {n.removeprefix(_MIX): float(v) for n, v in arrays.items() if n.startswith(_MIX)}
        self._sets = {n: arrays[f"set.{n}"][None] for n in model.card.sets if f"set.{n}" in arrays}
        forest = _forest_arrays(arrays)
        self._forest = Forest(**forest) if forest else None

    @cached_property
    def groups(self) -> dict[str, npt.NDArray[np.int64]]:
        """By feature group, the columns of the model's input; none for the cart."""
        declared = (*FEATURE_SET.groups, *FEATURE_SET.embedding_groups)
        features = self._model.card.features
        at = {name: i for i, name in enumerate(features)}
        names = {g.name: [f.name for f in g.features if f.name in at] for g in declared}
        found = {group: np.array([at[n] for n in own]) for group, own in names.items() if own}
        return found | ({CART: np.array([], np.int64)} if self._sets else {})

    def usual(self, vector: Floats) -> Usual:
        """What is usual beside a vector (len(FEATURES),), for the model's features."""
        chosen = vector[self._model.columns]
        return usual_values(self._model.card.features, chosen, self._medians)

    def explain(self, vector: Floats, sets: Sets) -> Explanation:
        """Explain the score of one vector (len(FEATURES),) and its sets (1, M, K)."""
        usual = self.usual(vector)
        chosen = vector[self._model.columns]
        if self._forest is not None:
            by_feature, base, margin = self._forest.contributions(chosen)
            by_group = {n: float(by_feature[columns].sum()) for n, columns in self.groups.items()}
        else:
            by_group, base, margin = self._shapley(chosen, usual, sets)
            by_feature = None
        score = float(self._model.score(vector[None], sets)[0])
        is_calibrated = abs(1.0 / (1.0 + np.exp(-margin)) - score) > _CALIBRATED
        return Explanation(
            base=base,
            log_odds=margin,
            contributions=by_group,
            gap=abs(base + sum(by_group.values()) - margin),
            reasons=self._reasons(chosen, usual, sets, by_group, by_feature),
            note="reasons explain the log-odds before calibration" if is_calibrated else "",
        )

    def score_without(self, vector: Floats, sets: Sets, groups: list[str]) -> float:
        """The score with groups set to what is usual: the deletion test."""
        present = np.array([name not in groups for name in self.groups])[None]
        usual = self.usual(vector)
        return float(self._scores(vector[self._model.columns], usual, sets, present)[0])

    def _reasons(
        self,
        vector: Floats,
        usual: Usual,
        sets: Sets,
        by_group: dict[str, float],
        by_feature: Floats | None,
    ) -> list[Reason]:
        ordered = sorted(by_group.items(), key=lambda pair: -pair[1])
        named = [(g, c) for g, c in ordered if c >= MIN_CONTRIBUTION][:MAX_REASONS]
        return [self._reason(g, c, vector, usual, sets, by_feature) for g, c in named]

    def _reason(
        self,
        group: str,
        contribution: float,
        vector: Floats,
        usual: Usual,
        sets: Sets,
        by_feature: Floats | None,
    ) -> Reason:
        if group == CART:
            items = item_changes(self._model, self._full(vector[None]), sets)
            return Reason(group, contribution, "what is in the cart", items=items)
        columns = self.groups[group]
        if group in {g.name for g in FEATURE_SET.embedding_groups}:
            return Reason(group, contribution, "whom the parties deal with")
        led_by = (
            self._leading(columns, vector, usual, sets)
            if by_feature is None
            else by_feature[columns]
        )
        names = self._model.card.features
        differs = _differ(vector[columns], usual.values[columns])
        order = [i for i in np.argsort(-led_by) if led_by[i] > 0 and differs[i]][:MAX_FEATURES]
        features = [
            FeatureReason(
                names[c],
                sentence(names[c], vector[c], usual.values[c], bool(usual.own[c])),
                float(vector[c]),
                float(usual.values[c]),
                bool(usual.own[c]),
            )
            for c in columns[order]
        ]
        text = "; ".join(f.text for f in features) or f"{group.replace('_', ' ')} as a whole"
        return Reason(group, contribution, text, features)

    def _leading(
        self, columns: npt.NDArray[np.int64], vector: Floats, usual: Usual, sets: Sets
    ) -> Floats:
        """What the log-odds lose with each of K columns set to what is usual, (K,)."""
        rows = np.repeat(vector[None], len(columns) + 1, axis=0)
        rows[np.arange(len(columns)), columns] = usual.values[columns]
        odds = self._log_odds(rows, {n: np.repeat(s, len(rows), axis=0) for n, s in sets.items()})
        return odds[-1] - odds[:-1]

    def _shapley(
        self, vector: Floats, usual: Usual, sets: Sets
    ) -> tuple[dict[str, float], float, float]:
        values = log_odds(self._scores(vector, usual, sets, coalitions(len(self.groups))))
        found = shapley_values(values)
        return dict(zip(self.groups, found.tolist(), strict=True)), values[0], values[-1]

    def _scores(
        self, vector: Floats, usual: Usual, sets: Sets, present: npt.NDArray[np.bool_]
    ) -> Floats:
        """Scores (N,) with each group as in the vector, or as usual: `present` (N, groups)."""
        rows = np.repeat(vector[None], len(present), axis=0)
        mixed: dict[str, Floats32] = {}
        for g, (group, columns) in enumerate(self.groups.items()):
            absent = ~present[:, g]
            rows[np.ix_(absent, columns)] = usual.values[columns]
            if group == CART:
                for name, usual_set in self._sets.items():
                    mixed[name] = pad_sets([usual_set if a else sets[name] for a in absent])
        return self._model.score(self._full(rows), mixed).astype(np.float64)

    def _log_odds(self, rows: Floats, sets: Sets) -> Floats:
        return log_odds(self._model.score(self._full(rows), sets).astype(np.float64))

    def _full(self, rows: Floats) -> Floats:
        """Vectors (N, len(FEATURES)) with the model's columns."""
        full = np.full((len(rows), len(FEATURES)), np.nan)
        full[:, self._model.columns] = rows
        return full


def _differ(values: Floats, usual: Floats) -> Booleans:
    """Whether each of K values is more than a twentieth away from what is usual.

    `np.isclose` takes five times as long for so few.
    """
    is_near = (np.abs(values - usual) <= _NEAR * np.abs(usual)) | (values == usual)
    return ~(is_near | (np.isnan(values) & np.isnan(usual)))


def _forest_arrays(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(_FOREST): v for k, v in arrays.items() if k.startswith(_FOREST)}


def first_reasons(model: TabularModel, examples: Examples) -> dict[str, int]:
    """By feature group, how often it is the first reason of the declines among examples.

    An example is declined if that has the lower expected cost, without analysts.
    """
    full = np.full((len(examples), len(FEATURES)), np.nan)
    full[:, model.columns] = examples.vectors
    scores = model.score(full, examples.sets).astype(np.float64)
    explainer, counts = Explainer(model), Counter[str]()
    outcomes = CostModel().outcomes(
        scores.astype(np.float64), model.card.threshold, examples.amount
    )
    for row in np.nonzero(outcomes == DECLINE)[0][:_MAX_FOR_MIX]:
        sets = {n: without_padding(items[row : row + 1]) for n, items in examples.sets.items()}
        reasons = explainer.explain(full[row], sets).reasons
        counts.update(reason.group for reason in reasons[:1])
    return dict(counts)


@lru_cache(maxsize=4)  # asked for every request that wants reasons
def explainer_of(model: TabularModel) -> Explainer | None:
    """The explainer of a model; None if its file does not explain itself."""
    try:
        return Explainer(model)
    except NotExplained:
        return None
