"""The gate: whether a challenger may become champion, and if not, why.

All of three conditions must hold:

    cost         the challenger costs less than the champion on the same labelled decisions: the
                 upper 95 % bound of the difference, by a paired bootstrap, lies below 0
    latency      the scorer's p95 would stay within its budget
    calibration  the challenger's expected calibration error is not worse beyond a tolerance

Decisions of one customer are correlated, so the bootstrap draws customers, not decisions. The gate
decides once, when there is enough evidence: repeated tests until a bound lies below 0 would promote
by chance.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 8 and 13.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from services.platform.evaluation.cost import Outcomes
from services.platform.models.onnx import ScoringModel
from services.platform.types import Booleans, Floats, Floats32, Integers

DRAWS = 2_000
CONFIDENCE = 0.95
BINS = 15
ECE_TOLERANCE = 0.005
# Counts held in memory at a time: all draws of 100,000 customers would take gigabytes.
_MAX_COUNTS = 10_000_000

# (outcome, positive, amount) -> (N,) cost of each decision, minor units.
Costs = Callable[[Outcomes, Booleans, Floats], Floats]


@dataclass(frozen=True)
class ModelResult:
    """What the gate compares of one model.

    Attributes:
        score: (N,) scores.
        threshold: Its decision threshold.
        seconds: (K,) durations of its calls.
        outcome: (N,) the outcomes that it leads to; None: those of its threshold.
    """

    score: Floats
    threshold: float
    seconds: Floats
    outcome: Outcomes | None = None

    @classmethod
    def from_model(
        cls, model: ScoringModel, vectors: npt.NDArray[Any], sets: Mapping[str, Floats32]
    ) -> "ModelResult":
        """A model's scores of N inputs (N, ...), without durations, which shadow mode measures."""
        score = model.score(vectors, sets).astype(np.float64)
        return cls(score, model.card.threshold, np.zeros(0))


@dataclass(frozen=True)
class Evidence:
    """N labelled decisions that neither model was trained on.

    Attributes:
        champion: The champion's results.
        challenger: The challenger's results.
        positive: (N,) outcomes.
        amount: (N,) minor units.
        unit: (N,) index of the sampling unit, such as the customer.
        scorer_p95_s: p95 latency of the scorer, which serves the champion.
        costs: The cost model at present; None: the design's.
        weight: (N,) how many decisions each stands for; None: itself.
    """

    champion: ModelResult
    challenger: ModelResult
    positive: Booleans
    amount: Floats
    unit: Integers
    scorer_p95_s: float = 0.0
    costs: Costs | None = None
    weight: Floats | None = None

    @property
    def counted(self) -> Floats:
        """(N,) how often each counts."""
        return np.ones(len(self.positive)) if self.weight is None else self.weight


@dataclass(frozen=True)
class GateDecision:
    """The gate's decision.

    Attributes:
        promoted: Whether the challenger becomes champion.
        reasons: Why it is refused, or the reason for its promotion.
        figures: The figures the decision is based on.
    """

    promoted: bool
    reasons: list[str]
    figures: dict[str, float] = field(default_factory=dict)


def decide(evidence: Evidence, costs: Costs, budget_s: float, seed: int = 0) -> GateDecision:
    """Check the three conditions.

    Args:
        costs: The design's cost model, for evidence without one of its own.
        budget_s: Limit on the scorer's p95 latency.
        seed: Of the bootstrap.
    """
    costs = evidence.costs or costs
    by_unit = _by_unit(evidence, costs)
    drawn = _bootstrap(by_unit, np.random.default_rng(seed))
    figures = {
        **_cost_figures(evidence, costs, drawn[:, 0]),
        **_latency_figures(evidence),
        **_calibration_figures(by_unit, drawn),
    }
    failed = [
        *_cost_failure(figures),
        *_latency_failure(figures, budget_s * 1e3),
        *_calibration_failure(figures),
    ]
    saving = -figures["cost_difference"] / 100
    passed = f"saves {saving:,.0f} EUR on {len(evidence.positive):,} decisions"
    return GateDecision(not failed, failed or [passed], figures)


def _by_unit(evidence: Evidence, costs: Costs) -> Floats:
    """(U, 2 + 2 BINS) sums per unit: cost difference, decisions, both models' gaps by bin."""
    champion, challenger = (_costs(model, evidence, costs) for model in _models(evidence))
    units = int(evidence.unit.max()) + 1
    columns = [
        np.bincount(evidence.unit, challenger - champion, minlength=units),
        np.bincount(evidence.unit, evidence.counted, minlength=units),
        *(_gaps(model.score, evidence, units) for model in _models(evidence)),
    ]
    return np.column_stack(columns)


def _bootstrap(by_unit: Floats, rng: np.random.Generator) -> Floats:
    """(DRAWS, K) sums of U units drawn with replacement from the (U, K) sums per unit."""
    units = len(by_unit)
    uniform = np.full(units, 1 / units)
    chunk = max(_MAX_COUNTS // units, 1)
    sizes = [min(chunk, DRAWS - begin) for begin in range(0, DRAWS, chunk)]
    return np.vstack([rng.multinomial(units, uniform, size) @ by_unit for size in sizes])


def _models(evidence: Evidence) -> tuple[ModelResult, ModelResult]:
    return evidence.champion, evidence.challenger


def _costs(model: ModelResult, evidence: Evidence, costs: Costs) -> Floats:
    by_threshold = model.score >= model.threshold
    outcome = by_threshold if model.outcome is None else model.outcome
    return costs(outcome, evidence.positive, evidence.amount) * evidence.counted


def _cost_figures(evidence: Evidence, costs: Costs, drawn: Floats) -> dict[str, float]:
    """Costs of both models and their difference, minor units, with its bootstrap interval."""
    champion, challenger = (_costs(model, evidence, costs).sum() for model in _models(evidence))
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


def _latency_figures(evidence: Evidence) -> dict[str, float]:
    """Projected p95 of the scorer with the challenger's call instead of the champion's, ms."""
    p95 = [float(np.quantile(model.seconds, 0.95)) * 1e3 for model in _models(evidence)]
    # A response takes at least its model's call, the only measurement if there were no requests.
    now = max(evidence.scorer_p95_s * 1e3, p95[0])
    return {
        "champion_p95_ms": p95[0],
        "challenger_p95_ms": p95[1],
        "projected_p95_ms": now + p95[1] - p95[0],
    }


def _calibration_figures(by_unit: Floats, drawn: Floats) -> dict[str, float]:
    """Expected calibration errors, and the lower bound of their difference."""
    champion, challenger = _calibration_errors(by_unit.sum(axis=0, keepdims=True))
    of_draws = _calibration_errors(drawn)
    return {
        "ece_champion": float(champion[0]),
        "ece_challenger": float(challenger[0]),
        "ece_difference_low": float(np.quantile(of_draws[1] - of_draws[0], 1 - CONFIDENCE)),
    }


def _calibration_errors(sums: Floats) -> tuple[Floats, Floats]:
    """Both models' calibration errors (N,) from N rows of sums as of `_by_unit`."""
    gaps = np.abs(sums[:, 2:]).reshape(-1, 2, BINS).sum(axis=2) / sums[:, 1:2]
    return gaps[:, 0], gaps[:, 1]


def _gaps(score: Floats, evidence: Evidence, units: int) -> Floats:
    """(U, BINS) sums of score minus outcome, by unit and bin."""
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    cell = evidence.unit * BINS + bins
    gap = np.bincount(cell, evidence.counted * (score - evidence.positive), minlength=units * BINS)
    return np.asarray(gap, dtype=np.float64).reshape(-1, BINS)


def _cost_failure(f: dict[str, float]) -> list[str]:
    if f["cost_difference_high"] < 0:
        return []
    return [
        f"cost: {f['cost_difference'] / 100:+,.0f} EUR against the champion's "
        f"{f['cost_champion'] / 100:,.0f} EUR; the upper 95 % bound is "
        f"{f['cost_difference_high'] / 100:+,.0f} EUR, not below 0"
    ]


def _latency_failure(f: dict[str, float], budget_ms: float) -> list[str]:
    if f["projected_p95_ms"] < budget_ms:
        return []
    return [
        f"latency: the scorer's p95 would be {f['projected_p95_ms']:.1f} ms of {budget_ms:.0f} "
        f"(the challenger's call takes {f['challenger_p95_ms']:.2f} ms)"
    ]


def _calibration_failure(f: dict[str, float]) -> list[str]:
    if f["ece_difference_low"] <= ECE_TOLERANCE:
        return []
    return [
        f"calibration: error {f['ece_challenger']:.4f} against {f['ece_champion']:.4f}, "
        f"worse by more than {ECE_TOLERANCE}"
    ]
