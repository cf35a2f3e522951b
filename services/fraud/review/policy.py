"""The policy: the outcome of least expected cost, under the present costs and price of a slot."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from statistics import median

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.events import Outcome
from services.fraud.problem import OUTCOMES, CostModel
from services.platform.types import Booleans, Integers

COSTS = tuple(field.name for field in fields(CostModel))
# Decisions that were logged before they had costs were made by their threshold.
_THRESHOLD = "threshold"


@dataclass(frozen=True)
class Policy:
    """Decides by one cost model.

    Attributes:
        costs: Costs, and the price of a review slot.
    """

    costs: CostModel

    def decide(self, probability: float, amount_minor: int) -> Outcome:
        """The outcome of one transaction.

        >>> Policy(CostModel()).decide(0.9, 5_000), Policy(CostModel(slot=0)).decide(0.3, 5_000)
        ('decline', 'review')
        """
        return OUTCOMES[self.costs.outcome(probability, amount_minor)]

    @cached_property
    def logged(self) -> orjson.Fragment:
        """The costs as the decision event holds them; an infinite price is null."""
        return orjson.Fragment(orjson.dumps({name: getattr(self.costs, name) for name in COSTS}))


def logged_costs(row: Mapping[str, float | None]) -> CostModel:
    """The cost model of a logged decision; unknown costs of a later version are left out.

    >>> logged_costs({"opex": 500.0, "slot": None}) == CostModel()
    True
    """
    known = {name: row[name] for name in COSTS if row.get(name) is not None}
    return CostModel(**known)  # type: ignore[arg-type]


def recompute(decisions: pa.Table, costs: CostModel | None = None) -> Integers:
    """Codes (D,) of the outcomes of D logged decisions, recomputed from what they logged.

    Args:
        decisions: Rows with `score`, `threshold`, `amount_minor` and `costs`.
        costs: Decide by these, at the logged price of a slot, instead of the logged costs.
    """
    score = decisions["score"].to_numpy()
    amount = decisions["amount_minor"].to_numpy()
    out = (score >= decisions[_THRESHOLD].to_numpy()).astype(np.int64)
    for logged, rows in _distinct(decisions["costs"].combine_chunks()):
        model = logged if costs is None else replace(costs, slot=logged.slot)
        out[rows] = model.outcomes(score[rows], 0.0, amount[rows])
    return out


class UsualCosts:
    """The usual costs of logged decisions, which it takes a part at a time."""

    def __init__(self) -> None:
        self._newest: dict[str, float | None] | None = None
        self._prices: Counter[float] = Counter()

    def add(self, costs: pa.ChunkedArray) -> None:
        """Take the costs of decisions, later ones than those before; null without any."""
        known = costs.drop_null().combine_chunks()
        if not len(known):
            return
        self._newest = known[-1].as_py()
        prices = pc.value_counts(pc.fill_null(known.field("slot"), math.inf))
        for one in prices.to_pylist():
            self._prices[one["values"]] += one["counts"]

    def model(self) -> CostModel:
        """The newest costs, at the median price of a slot.

        A model is compared with another at this price: what a slot was worth is what a review
        takes from other cases.
        """
        if self._newest is None:
            return CostModel()
        prices = sorted(self._prices)
        ranks = np.cumsum([self._prices[price] for price in prices])
        middle = np.searchsorted(ranks, [(ranks[-1] + 1) // 2, ranks[-1] // 2 + 1])
        return replace(logged_costs(self._newest), slot=median(prices[i] for i in middle))


def usual_costs(logged: pa.ChunkedArray) -> CostModel:
    """The newest costs of logged decisions, in their order, at the median price of a slot.

    >>> prices = [{"opex": 500.0, "slot": 10.0}, {"opex": 800.0, "slot": 30.0}, None]
    >>> usual_costs(pa.chunked_array([prices])).slot
    20.0
    """
    found = UsualCosts()
    found.add(logged)
    return found.model()


def _distinct(costs: pa.StructArray) -> list[tuple[CostModel, Booleans]]:
    """Each distinct cost model of D decisions, with a mask (D,) of its rows; nulls are in none."""
    logged = costs.to_pylist()
    keys = np.array([repr(one) for one in logged], dtype=object)
    firsts = {key: one for key, one in zip(keys, logged, strict=True) if one is not None}
    return [(logged_costs(one), keys == key) for key, one in firsts.items()]


def codes(names: pa.ChunkedArray) -> Integers:
    """Outcome names (D,) as codes."""
    index = {name: code for code, name in enumerate(OUTCOMES)}
    return np.array([index[name] for name in names.to_pylist()], dtype=np.int64)
