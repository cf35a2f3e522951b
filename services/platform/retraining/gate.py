"""The gate: whether a challenger may become champion, and if not, why.

Three conditions, all of them needed:

    cost         the challenger costs less than the champion on the same labelled decisions: the
                 upper 95 % bound of the difference, by a paired bootstrap, lies below 0
    latency      the scorer's p95 would stay within its budget
    calibration  the challenger's expected calibration error is not larger by more than a little

Decisions of one customer go together, so whole customers are drawn, not decisions. The gate looks
once, when there is enough evidence: to look again and again until a bound happens to lie below 0
would promote by chance.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from services.platform.models.onnx import Floats32, Scoring

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]

DRAWS = 2_000
CONFIDENCE = 0.95
BINS = 15
ECE_TOLERANCE = 0.005
# Of 100,000 customers all draws at once would be gigabytes.
_COUNTS_AT_ONCE = 10_000_000

# (declined, positive, amount) -> (N,) cost of each decision, minor units.
Costs = Callable[[Booleans, Booleans, Floats], Floats]


@dataclass(frozen=True)
class Side:
    """One of the two models: (N,) scores, its threshold, (K,) seconds its calls took."""

    score: Floats
    threshold: float
    seconds: Floats

    @classmethod
    def of(cls, model: Scoring, vectors: npt.NDArray[Any], sets: Mapping[str, Floats32]) -> "Side":
        """A model's scores; how long its calls take is for shadow mode to measure."""
        score = model.score(vectors, sets).astype(np.float64)
        return cls(score, model.card.threshold, np.zeros(0))


@dataclass(frozen=True)
class Evidence:
    """N labelled decisions that neither model was trained on.

    Attributes:
        positive, amount: (N,) outcome, and minor units. unit: (N,) number of whom they belong to.
        scorer_p95_s: The scorer's present 95th percentile, as it serves the champion.
    """

    champion: Side
    challenger: Side
    positive: Booleans
    amount: Floats
    unit: Integers
    scorer_p95_s: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What the gate decides. `reasons` are why it refuses, or what speaks for promotion."""

    promoted: bool
    reasons: list[str]
    figures: dict[str, float] = field(default_factory=dict)


def judge(evidence: Evidence, costs: Costs, budget_s: float, seed: int = 0) -> Verdict:
    """Hold the evidence against the three conditions.

    Args:
        costs: The design's KPI. budget_s: What the scorer's p95 must stay below.
    """
    by_unit = _by_unit(evidence, costs)
    drawn = _drawn(by_unit, np.random.default_rng(seed))
    figures = {
        **_cost(evidence, costs, drawn[:, 0]),
        **_latency(evidence),
        **_calibration(by_unit, drawn),
    }
    wrong = [
        *_too_dear(figures),
        *_too_slow(figures, budget_s * 1e3),
        *_badly_calibrated(figures),
    ]
    good = f"saves {-figures['cost_difference'] / 100:,.0f} on {len(evidence.positive):,} decisions"
    return Verdict(not wrong, wrong or [good], figures)


def _by_unit(evidence: Evidence, costs: Costs) -> Floats:
    """(U, 2 + 2 BINS) each unit's sums: cost difference, decisions, both sides' gaps by bin."""
    champion, challenger = (_costs(side, evidence, costs) for side in _sides(evidence))
    units = int(evidence.unit.max()) + 1
    columns = [
        np.bincount(evidence.unit, challenger - champion, minlength=units),
        np.bincount(evidence.unit, minlength=units),
        *(_gaps(side.score, evidence, units) for side in _sides(evidence)),
    ]
    return np.column_stack(columns)


def _drawn(by_unit: Floats, rng: np.random.Generator) -> Floats:
    """(DRAWS, K) sums over as many units, drawn with replacement, of (U, K) sums of each."""
    units = len(by_unit)
    even = np.full(units, 1 / units)
    at_once = max(_COUNTS_AT_ONCE // units, 1)
    sizes = [min(at_once, DRAWS - begin) for begin in range(0, DRAWS, at_once)]
    return np.vstack([rng.multinomial(units, even, size) @ by_unit for size in sizes])


def _sides(evidence: Evidence) -> tuple[Side, Side]:
    return evidence.champion, evidence.challenger


def _costs(side: Side, evidence: Evidence, costs: Costs) -> Floats:
    return costs(side.score >= side.threshold, evidence.positive, evidence.amount)


def _cost(evidence: Evidence, costs: Costs, drawn: Floats) -> dict[str, float]:
    """Cost of both and of their difference, minor units, with its bootstrap interval."""
    champion, challenger = (_costs(side, evidence, costs).sum() for side in _sides(evidence))
    low, high = np.quantile(drawn, [1 - CONFIDENCE, CONFIDENCE])
    return {
        "decisions": float(len(evidence.positive)),
        "positives": float(evidence.positive.sum()),
        "cost_champion": float(champion),
        "cost_challenger": float(challenger),
        "cost_difference": float(challenger - champion),
        "cost_difference_low": float(low),
        "cost_difference_high": float(high),
    }


def _latency(evidence: Evidence) -> dict[str, float]:
    """What the scorer's p95 would be with the challenger's call in place of the champion's, ms."""
    p95 = [float(np.quantile(side.seconds, 0.95)) * 1e3 for side in _sides(evidence)]
    # No request is answered faster than its model's call; where none came, that is all we know.
    now = max(evidence.scorer_p95_s * 1e3, p95[0])
    return {
        "champion_p95_ms": p95[0],
        "challenger_p95_ms": p95[1],
        "projected_p95_ms": now + p95[1] - p95[0],
    }


def _calibration(by_unit: Floats, drawn: Floats) -> dict[str, float]:
    """Expected calibration errors, and the lower bound of their difference."""
    champion, challenger = _errors(by_unit.sum(axis=0, keepdims=True))
    of_draws = _errors(drawn)
    return {
        "ece_champion": float(champion[0]),
        "ece_challenger": float(challenger[0]),
        "ece_difference_low": float(np.quantile(of_draws[1] - of_draws[0], 1 - CONFIDENCE)),
    }


def _errors(sums: Floats) -> tuple[Floats, Floats]:
    """Both sides' calibration errors (N,) from N rows of what `_by_unit` sums."""
    gaps = np.abs(sums[:, 2:]).reshape(-1, 2, BINS).sum(axis=2) / sums[:, 1:2]
    return gaps[:, 0], gaps[:, 1]


def _gaps(score: Floats, evidence: Evidence, units: int) -> Floats:
    """(U, BINS) summed gaps between score and outcome, by unit and bin."""
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    cell = evidence.unit * BINS + bins
    gap = np.bincount(cell, score - evidence.positive, minlength=units * BINS)
    return np.asarray(gap, dtype=np.float64).reshape(-1, BINS)


def _too_dear(f: dict[str, float]) -> list[str]:
    if f["cost_difference_high"] < 0:
        return []
    return [
        f"cost: {f['cost_difference'] / 100:+,.0f} against the champion's "
        f"{f['cost_champion'] / 100:,.0f}; the upper 95 % bound is "
        f"{f['cost_difference_high'] / 100:+,.0f}, not below 0"
    ]


def _too_slow(f: dict[str, float], budget_ms: float) -> list[str]:
    if f["projected_p95_ms"] < budget_ms:
        return []
    return [
        f"latency: the scorer's p95 would be {f['projected_p95_ms']:.1f} ms of {budget_ms:.0f} "
        f"(the challenger's call takes {f['challenger_p95_ms']:.2f} ms)"
    ]


def _badly_calibrated(f: dict[str, float]) -> list[str]:
    if f["ece_difference_low"] <= ECE_TOLERANCE:
        return []
    return [
        f"calibration: error {f['ece_challenger']:.4f} against {f['ece_champion']:.4f}, "
        f"worse by more than {ECE_TOLERANCE}"
    ]
