"""The drill of selective labels: 60 days of nightly retraining on the labels that exist.

Three systems decide the same simulated transactions. One learns what nobody could know, the truth
of declined transactions too; one learns from approved transactions only; one approves a control
group among its would-be declines (`review.control`) and weights it by inverse propensity. Each
refits every night on its own labels of the three weeks before the dispute window. Kernel, features,
trees and cost policy are the real ones; there are no analysts, engines or gate. True costs are the
simulator's.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from services.fraud.evaluation.selective_labels.estimate import Estimate, genuine_declined
from services.fraud.evaluation.simulated_data import SimulatedData
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.problem import DECLINE, DISPUTE_WINDOW_DAYS, CostModel
from services.fraud.retraining.training import new_candidate
from services.fraud.review.control import draw, propensity
from services.platform.models.candidates import Candidate, Examples
from services.platform.progress import ProgressBar
from services.platform.types import Booleans, Floats

TRUTH, SELECTIVE, CONTROL = "truth", "selective", "control"
ARMS = (TRUTH, SELECTIVE, CONTROL)
WINDOW_DAYS = 21
FIRST_DAY = WARM_UP_DAYS + WINDOW_DAYS + DISPUTE_WINDOW_DAYS
DAYS = 60
# One genuine transaction of ten is fitted on, with ten times the weight: 180 fits in minutes.
_GENUINE_STEP = 10
_ROUNDS = 100
_LAST_DAYS = 25
MIN_COVERED = 0.9


@dataclass
class Arm:
    """One system's days.

    Attributes:
        true_cost: By day, EUR, by the simulator's truth.
        estimate: By day, EUR: value, lower and upper end of the 95 % interval, by what it knows.
        declined: By day, number of declined transactions.
        controls: By day, number of the control group.
        control_cost: By day, EUR that the control group cost beyond declining it.
    """

    true_cost: list[float] = field(default_factory=list)
    estimate: list[Estimate] = field(default_factory=list)
    declined: list[int] = field(default_factory=list)
    controls: list[int] = field(default_factory=list)
    control_cost: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Means over the days, and over the last 25, whose labels are all the system's own."""
        inside = [e.covers(c) for e, c in zip(self.estimate, self.true_cost, strict=True)]
        return {
            "cost_a_day": float(np.mean(self.true_cost)),
            "cost_a_day_last": float(np.mean(self.true_cost[-_LAST_DAYS:])),
            "estimated_a_day": float(np.mean([e.value for e in self.estimate])),
            "days_covered": float(np.mean(inside)),
            "declined_a_day": float(np.mean(self.declined)),
            "controls_a_day": float(np.mean(self.controls)),
            "control_cost_a_day": float(np.mean(self.control_cost)),
        }


@dataclass(frozen=True)
class SelectiveLabels:
    """The drill's result."""

    seed: int
    rate: float
    arms: Mapping[str, Arm]

    def as_json(self) -> dict[str, Any]:
        """As a JSON-serialisable dictionary."""
        return {
            "seed": self.seed,
            "rate": self.rate,
            "figures": {name: arm.figures() for name, arm in self.arms.items()},
            "days": {name: asdict(arm) for name, arm in self.arms.items()},
        }


def run(seed: int, rate: float, bar: ProgressBar, days: int = DAYS) -> SelectiveLabels:
    """Simulate, decide and retrain `days` days in each of the three systems.

    Args:
        seed: Of the simulation and of the training.
        rate: Share of would-be declines that the control group takes.
        bar: Opens a progress bar with a title.
        days: Days of nightly retraining.
    """
    last = FIRST_DAY + days
    with bar("simulating") as step:
        data = SimulatedData(seed, last, step=step)
    every = Examples(data.vectors, data.fraud, data.amount)
    # Stands for the transaction's id, from which a scorer would draw.
    drawn = np.array([draw(f"{seed}-{number}") for number in range(len(data.fraud))])
    arms = {name: Arm() for name in ARMS}
    propensities = {name: np.ones(len(data.fraud)) for name in ARMS}
    with bar("deciding and retraining") as step:
        for day in range(FIRST_DAY, last):
            for number, name in enumerate(ARMS):
                known = data.between_days(
                    day - DISPUTE_WINDOW_DAYS - WINDOW_DAYS, day - DISPUTE_WINDOW_DAYS
                )
                model = fit(every, known, propensities[name], seed)
                share = {CONTROL: rate, TRUTH: 0.0, SELECTIVE: 0.0}[name]
                today = np.nonzero(data.between_days(day, day + 1))[0]
                observed = decide_day(arms[name], model, data, today, drawn[today], share)
                if name != TRUTH:
                    propensities[name][today] = observed
                step((day - FIRST_DAY) * len(ARMS) + number + 1, days * len(ARMS))
    return SelectiveLabels(seed, rate, arms)


def fit(
    data: Examples, known: Booleans, observed: Floats, seed: int, features: tuple[str, ...] = ()
) -> Candidate:
    """Trees fitted on the labels of the days `known`, each weighted by inverse propensity.

    Args:
        data: N transactions.
        known: (N,) whether each is of those days.
        observed: (N,) propensity of each label that is known, 0 for one that is not.
        seed: Of the training.
        features: Names of the vectors' columns, those of the present feature set if empty.
    """
    labelled = known & (observed > 0)
    chosen = np.nonzero(labelled)[0]
    fraud = data.positive[chosen]
    chosen = chosen[fraud | (chosen % _GENUINE_STEP == 0) | (observed[chosen] < 1.0)]
    fraud = data.positive[chosen]
    sampled = ~fraud & (observed[chosen] == 1.0)
    weight = np.where(sampled, float(_GENUINE_STEP), 1.0) / observed[chosen]
    model = new_candidate("xgboost", features)
    model.parameters["rounds"] = _ROUNDS
    rows = Examples(data.vectors[chosen], fraud, data.amount[chosen], weight=weight)
    model.fit(rows, rows, seed, lambda *_: None)
    return model


def decide_day(
    arm: Arm, model: Candidate, data: SimulatedData, today: Any, drawn: Floats, rate: float
) -> Floats:
    """Decide a day's transactions and count the day.

    Args:
        today: (D,) indices of the day's transactions.
        drawn: (D,) the draw of each, for the control group.
        rate: Share of the control group, 0 without one.

    Returns:
        (D,) propensity of each label: 1 where approved, 0 where declined.
    """
    amount, fraud, costs = data.amount[today], data.fraud[today], CostModel()
    score = model.score(Examples(data.vectors[today], fraud, amount))
    would_decline = costs.outcomes(score, 0.0, amount) == DECLINE
    chance = propensity(amount, rate)
    control = would_decline & (drawn < chance)
    declined = would_decline & ~control
    paid = costs.costs(declined, fraud, amount) / 100
    known = float(paid[~declined].sum())
    if rate:
        genuine = genuine_declined(int(declined.sum()), 1 / chance[control], ~fraud[control])
    else:
        # Nothing is known of the declined ones but the model's own belief.
        belief = 1.0 - score[declined]
        spread = 1.96 * float(np.sqrt((belief * (1.0 - belief)).sum()))
        genuine = Estimate(
            float(belief.sum()), float(belief.sum()) - spread, float(belief.sum()) + spread
        )
    opex = costs.opex / 100
    arm.true_cost.append(float(paid.sum()))
    arm.estimate.append(
        Estimate(
            known + opex * genuine.value, known + opex * genuine.lower, known + opex * genuine.upper
        )
    )
    arm.declined.append(int(declined.sum()))
    arm.controls.append(int(control.sum()))
    if_declined = costs.costs(would_decline, fraud, amount) / 100
    arm.control_cost.append(float((paid - if_declined).sum()))
    return np.where(would_decline, np.where(control, chance, 0.0), 1.0)


def plot(found: SelectiveLabels, path: Path) -> None:
    """Plot the true cost by day (mean over five days), and the control arm's estimate."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    words = {
        TRUTH: "simulator's truth", SELECTIVE: "approved only", CONTROL: "with a control group"
    }  # fmt: skip
    days = np.arange(len(found.arms[TRUTH].true_cost)) + 1
    for name, arm in found.arms.items():
        axes.plot(days, _smooth(np.array(arm.true_cost)), label=words[name])
    estimate = found.arms[CONTROL].estimate
    lower, upper = (_smooth(np.array([getattr(e, end) for e in estimate]))
                    for end in ("lower", "upper"))  # fmt: skip
    axes.fill_between(days, lower, upper, alpha=0.2, color="tab:green", label="its 95 % interval")
    axes.set(xlabel="day of nightly retraining", ylabel="EUR a day", ylim=(0, None),
             title="What the labels of declined transactions are worth")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _smooth(values: Floats, width: int = 5) -> Floats:
    kernel = np.ones(min(width, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
