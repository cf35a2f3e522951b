"""Money: what logged decisions would cost under other costs, as fast as a slider moves."""

import asyncio
import time
from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel

from services.platform.design import Design
from services.platform.evaluation.what_if import Curves, LoggedDecisions, Slider, curves
from services.platform.settings import Settings
from services.platform.walkthrough import Money

# Decisions are read anew when they are this old; until then a slider moves over the same ones.
FRESH_S = 20.0


class OutcomeCount(BaseModel):
    """Decisions of an outcome: under the present costs, and under the chosen ones."""

    outcome: str
    now: int
    chosen: int


class MoneyState(BaseModel):
    """The view of money.

    Attributes:
        sliders: Costs that can be changed.
        present: The costs that the running stack decides by.
        chosen: The costs that the figures below are of.
        decisions: Logged decisions, without load tests.
        days: Of event time with decisions.
        changed: Decisions with another outcome than under the present costs.
        eur_per_day_now: Expected cost of a day under the chosen costs, by the present outcomes.
        eur_per_day: The same, by the outcomes that the chosen costs decide.
        curves: By role, of the newest model, by labelled decisions.
    """

    sliders: list[Slider]
    present: dict[str, float]
    chosen: dict[str, float]
    decisions: int
    days: float
    outcomes: list[OutcomeCount]
    changed: int
    eur_per_day_now: float
    eur_per_day: float
    curves: dict[str, Curves]


class MoneyView:
    """Reads logged decisions now and then, and decides them by any costs."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._read: dict[str, tuple[float, LoggedDecisions | None]] = {}
        self._lock = asyncio.Lock()

    async def state(self, design: Design, money: Money, costs: Mapping[str, float]) -> MoneyState:
        """The view under some costs.

        Args:
            costs: By name; those that are left out are the present ones.

        Raises:
            OSError: an engine does not answer.
            ValueError: there is no such cost, or no decision.
        """
        present = dict(await money.present(self._config))
        for name in costs:
            if name not in present:
                raise ValueError(f"cost: {name!r} is not one of {', '.join(present)}")
        logged = await self._logged(design, money)
        if logged is None:
            raise ValueError("nothing was decided yet: start simulated traffic")
        return await asyncio.to_thread(_state, money, logged, present, {**present, **costs})

    async def _logged(self, design: Design, money: Money) -> LoggedDecisions | None:
        async with self._lock:
            at, logged = self._read.get(design.name, (float("-inf"), None))
            if logged is None or time.monotonic() - at > FRESH_S:
                logged = await asyncio.to_thread(money.read, self._config)
                self._read[design.name] = time.monotonic(), logged
            return logged


def _state(
    money: Money, logged: LoggedDecisions, present: dict[str, float], chosen: dict[str, float]
) -> MoneyState:
    now, then = money.decide(logged, present), money.decide(logged, chosen)
    counts = [
        np.bincount(one.outcome, minlength=len(money.outcomes)).tolist() for one in (now, then)
    ]
    return MoneyState(
        sliders=list(money.sliders),
        present=present,
        chosen=chosen,
        decisions=len(logged),
        days=logged.days,
        outcomes=[
            OutcomeCount(outcome=name, now=before, chosen=after)
            for name, before, after in zip(money.outcomes, *counts, strict=True)
        ],
        changed=int((now.outcome != then.outcome).sum()),
        eur_per_day_now=then.expected_eur(now.outcome) / logged.days,
        eur_per_day=then.expected_eur(then.outcome) / logged.days,
        curves={role: curves(of, then.costs) for role, of in logged.labelled.items() if len(of)},
    )
