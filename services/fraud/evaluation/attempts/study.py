"""The study: 60 days that a system of each variant decides, on the same simulated transactions.

Each refits every night on its own labels, as in the drill of selective labels. One system is the
product's with another seed of training: what two systems differ by that are the same. Kernel,
features, trees and cost policy are the real ones; there are no analysts, engines, gate or graph
embeddings. A fraudster who is declined goes on as if approved, and no customer tries again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from features.feature_set import FeatureSet
from services.fraud.evaluation.attempts.decider import Decider
from services.fraud.evaluation.attempts.stream import SimulatedStream
from services.fraud.evaluation.attempts.variants import ATTEMPTS, VARIANTS
from services.fraud.evaluation.selective_labels.drill import DAYS, FIRST_DAY
from services.fraud.problem import CostModel
from services.fraud.review.control import draw
from services.platform.evaluation.comparison import interval
from services.platform.progress import ProgressBar
from services.platform.types import Booleans, Floats

AGAIN = "attempts, trained anew"
_OTHER_SEED = 1_000
LAST_DAYS = 25


@dataclass(frozen=True)
class System:
    """A system's D days, of all seeds one behind another.

    Attributes:
        cost: (D,) EUR a day.
        missed: (D,) frauds that it approved.
        stopped: (D,) genuine transactions that it declined.
    """

    cost: Floats
    missed: Floats
    stopped: Floats


@dataclass(frozen=True)
class Saving:
    """What a system saves a day against states of attempts, EUR.

    Attributes:
        mean: Mean of the days' differences.
        low: Lower end of its 95 % interval, by day.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Study:
    """The result.

    Attributes:
        seeds: Of simulations and training.
        days: Days of each.
        systems: By variant.
    """

    seeds: tuple[int, ...]
    days: int
    systems: Mapping[str, System]

    def saving(self, name: str, last: int | None = None) -> Saving:
        """What a variant saves a day, over all days or the last ones of each seed."""
        differs = self.systems[ATTEMPTS].cost - self.systems[name].cost
        days = differs.reshape(len(self.seeds), self.days)[:, -(last or self.days) :].ravel()
        return Saving(float(days.mean()), *interval(days.tolist()))

    def as_json(self) -> dict[str, Any]:
        """As a JSON-serialisable dictionary."""
        return {
            "seeds": self.seeds,
            "systems": {
                name: {
                    "cost_a_day": float(of.cost.mean()),
                    "saving": asdict(self.saving(name)),
                    "saving_last": asdict(self.saving(name, LAST_DAYS)),
                    "missed_a_day": float(of.missed.mean()),
                    "stopped_a_day": float(of.stopped.mean()),
                    "cost": of.cost.round(2).tolist(),
                }
                for name, of in self.systems.items()
            },
        }


def run(seeds: tuple[int, ...], share: float, bar: ProgressBar, days: int = DAYS) -> Study:
    """Decide the days of every seed by every variant.

    Args:
        seeds: Of the simulations and of the training.
        share: Share of would-be declines that the control group takes.
        bar: Opens a progress bar with a title.
        days: Days of nightly retraining.
    """
    parts: dict[str, list[Floats]] = {}
    for seed in seeds:
        with bar(f"simulating, seed {seed}") as step:
            stream = SimulatedStream(seed, FIRST_DAY + days, step)
        drawn = _draws(seed, len(stream.fraud))
        for name, (features, training_seed) in _systems(seed).items():
            with bar(f"{name}, seed {seed}") as step:
                decider = Decider(features, stream, drawn, share, training_seed)
                for day in decider.run(FIRST_DAY + days):
                    step(day + 1, FIRST_DAY + days)
            parts.setdefault(name, []).append(_days(stream, decider.declined))
    return Study(seeds, days, {n: System(*np.concatenate(of, axis=1)) for n, of in parts.items()})


def _systems(seed: int) -> Mapping[str, tuple[FeatureSet, int]]:
    of_variants = {name: (features, seed) for name, features in VARIANTS.items()}
    return {**of_variants, AGAIN: (VARIANTS[ATTEMPTS], seed + _OTHER_SEED)}


def _draws(seed: int, count: int) -> Floats:
    # Stands for the transaction's id, from which a scorer would draw.
    return np.array([draw(f"{seed}-{number}") for number in range(count)])


def _days(stream: SimulatedStream, declined: Booleans) -> Floats:
    """(3, D) the rows of `System`, of the days from `FIRST_DAY` on."""
    cost = CostModel().costs(declined, stream.fraud, stream.amount) / 100
    missed, stopped = stream.fraud & ~declined, declined & ~stream.fraud
    rows = [np.bincount(stream.day, weights=of) for of in (cost, missed, stopped)]
    return np.array(rows, dtype=np.float64)[:, FIRST_DAY:]
