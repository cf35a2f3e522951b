"""The retraining drill: fraudsters change, the cost rises, and nightly retraining reduces it again.

Four months are simulated in memory within a minute. Simulator, kernel, candidate, threshold and
gate are the real ones. There are no engines and no shadow traffic: the gate decides on labelled
days and on call times measured here. The cost of the first champion without retraining is computed
for comparison.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from services.fraud.evaluation.simulated_data import SimulatedData, midnight
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.model import read_model
from services.fraud.problem import DISPUTE_WINDOW_DAYS, LATENCY_BUDGET_MS, CostModel
from services.fraud.retraining.dataset import GATE_DAYS, VALIDATION_DAYS
from services.fraud.retraining.plan import VALIDATION_SHARE
from services.fraud.retraining.training import choose_threshold, make_card, new_candidate
from services.fraud.simulator.drift import Drift
from services.platform.models.candidates import Candidate
from services.platform.models.onnx import write_card
from services.platform.models.tabular import TabularModel
from services.platform.progress import ProgressBar
from services.platform.retraining.gate import Evidence, GateDecision, ModelResult, decide
from services.platform.types import Floats

FIRST_FIT_UNTIL = 37
DRIFT_DAY = 60
DAYS = 120
# The gate decides on the newest labelled days; with this interval it gets new ones every round.
ROUND_EVERY_DAYS = GATE_DAYS
_LAST_DAYS = 21
_TIMED_CALLS = 300


@dataclass(frozen=True)
class RetrainingRound:
    """The result of one round of retraining.

    Attributes:
        day: The day it ran.
        promoted: Whether the challenger became champion.
        reasons: The gate's reasons.
        saves_eur: What the challenger saves on the gate's days, EUR.
        until: First day used neither for training nor for the threshold; 0 without a challenger.
    """

    day: int
    promoted: bool
    reasons: list[str]
    saves_eur: float
    until: int


@dataclass(frozen=True)
class Drill:
    """The drill's result, from the first day served.

    Attributes:
        candidate: Name of the candidate.
        strength: Strength of the concept drift, 0..1.
        drift_day: The day the drift began.
        days: Numbers of the days.
        paid: Cost of each day with retraining, EUR.
        unattended: Cost of each day with the first champion throughout, EUR.
        nights: The rounds of retraining, in order.
        means: Mean cost of a day, EUR: before the drift; from the drift until a challenger trained
            on drifted days was promoted; of the last days, with and without retraining.
    """

    candidate: str
    strength: float
    drift_day: int
    days: list[int]
    paid: list[float]
    unattended: list[float]
    nights: list[RetrainingRound] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The fields as a JSON-serialisable dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class _ServedCandidate:
    """A champion or challenger.

    Attributes:
        native: The trained candidate, for training further.
        model: The exported model, as serving loads it.
        until: First day used neither for training nor for the threshold.
    """

    native: Candidate
    model: TabularModel
    until: int

    @property
    def threshold(self) -> float:
        return self.model.card.threshold


def run(candidate: str, strength: float, seed: int, bar: ProgressBar) -> Drill:
    """Simulate `DAYS` days with concept drift from `DRIFT_DAY` on, retraining through the gate.

    Args:
        candidate: Name of the candidate.
        strength: 0..1, see `Drift.concept`.
        seed: Seed of the simulation and of the training.
        bar: Opens a progress bar with a title.

    Raises:
        KeyError: no such candidate.
        ValueError: the candidate needs more than the tabular features.
    """
    native = new_candidate(candidate)
    if type(native).groups or type(native).sets:
        raise ValueError(f"{candidate} needs a graph or carts, which the drill does not simulate")
    schedule = ((midnight(DRIFT_DAY), Drift(concept=strength)),)
    with bar("simulating four months") as step:
        data = SimulatedData(seed, DAYS, schedule, step)
    first = _train_first_champion(native, data, seed, bar)
    champion, rounds, served = first, [], {}
    with bar("retraining") as step:
        for day in range(first.until, DAYS):
            if day >= DRIFT_DAY and (day - DRIFT_DAY) % ROUND_EVERY_DAYS == 0:
                champion, result = _retrain(champion, data, day, seed)
                rounds.append(result)
            served[day] = champion
            step(day - first.until + 1, DAYS - first.until)
    days = list(served)
    drill = Drill(
        candidate=candidate,
        strength=strength,
        drift_day=DRIFT_DAY,
        days=days,
        paid=[_daily_cost(served[day], data, day) for day in days],
        unattended=[_daily_cost(first, data, day) for day in days],
        nights=rounds,
    )
    return replace(drill, means=dict(_means(drill)))


def _train_first_champion(
    native: Candidate, data: SimulatedData, seed: int, bar: ProgressBar
) -> _ServedCandidate:
    known = FIRST_FIT_UNTIL + VALIDATION_DAYS
    fit = data.examples(WARM_UP_DAYS, FIRST_FIT_UNTIL)
    with bar(f"training {native.name}") as step:
        native.fit(fit, data.examples(FIRST_FIT_UNTIL, known), seed, step)
    return _serve(native, data, FIRST_FIT_UNTIL, known)


def _serve(native: Candidate, data: SimulatedData, first: int, until: int) -> _ServedCandidate:
    """A trained candidate as serving loads it, its threshold chosen on days `first` to `until`."""
    threshold = choose_threshold(native, data.examples(first, until))
    card = make_card(native, threshold, "drill", midnight(until) / 1e6)
    return _ServedCandidate(native, read_model(write_card(native.export(), card)), until)


def _retrain(
    champion: _ServedCandidate, data: SimulatedData, day: int, seed: int
) -> tuple[_ServedCandidate, RetrainingRound]:
    """Continue the champion's training on the labels known by `day`, and let the gate decide."""
    labelled = day - DISPUTE_WINDOW_DAYS
    until = labelled - GATE_DAYS
    if until - champion.until < GATE_DAYS:
        return champion, RetrainingRound(
            day, False, ["too few labels since the champion was trained"], 0.0, 0
        )
    chosen_from = until - max(round(VALIDATION_SHARE * (until - champion.until)), 1)
    # On a copy: a refused challenger must not change the champion.
    native = _copy(champion.native)
    native.fit_more(data.examples(champion.until, chosen_from), seed, lambda *_: None)
    challenger = _serve(native, data, chosen_from, until)
    decision = _decide(champion, challenger, data, until, labelled)
    saves = -decision.figures["cost_difference"] / 100
    result = RetrainingRound(day, decision.promoted, decision.reasons, saves, until)
    return (challenger if decision.promoted else champion), result


def _copy(native: Candidate) -> Candidate:
    made = new_candidate(native.name)
    with TemporaryDirectory() as folder:
        native.save(Path(folder))
        made.load(Path(folder))
    return made


def _decide(
    champion: _ServedCandidate,
    challenger: _ServedCandidate,
    data: SimulatedData,
    first: int,
    until: int,
) -> GateDecision:
    mask = data.between_days(first, until)
    vectors = data.vectors[mask]
    evidence = Evidence(
        champion=_model_result(champion.model, vectors, data.amount[mask]),
        challenger=_model_result(challenger.model, vectors, data.amount[mask]),
        positive=data.fraud[mask],
        amount=data.amount[mask],
        unit=np.unique(data.customer[mask], return_inverse=True)[1],
    )
    return decide(evidence, CostModel().costs, LATENCY_BUDGET_MS / 1e3)


def _model_result(model: TabularModel, vectors: Floats, amount: Floats) -> ModelResult:
    seconds = []
    for row in range(min(_TIMED_CALLS, len(vectors))):
        begin = perf_counter()
        model.score(vectors[row : row + 1])
        seconds.append(perf_counter() - begin)
    found = ModelResult.from_model(model, vectors, {})
    outcome = CostModel().outcomes(found.score, found.threshold, amount)
    return replace(found, seconds=np.array(seconds), outcome=outcome)


def _daily_cost(champion: _ServedCandidate, data: SimulatedData, day: int) -> float:
    """The cost of a day, EUR."""
    mask = data.between_days(day, day + 1)
    score = champion.model.score(data.vectors[mask]).astype(np.float64)
    outcome = CostModel().outcomes(score, champion.threshold, data.amount[mask])
    return CostModel().total(outcome, data.fraud[mask], data.amount[mask]) / 100


def _means(drill: Drill) -> Iterator[tuple[str, float]]:
    days, paid, unattended = (np.array(x) for x in (drill.days, drill.paid, drill.unattended))
    responses = [n.day for n in drill.nights if n.promoted and n.until > DRIFT_DAY]
    responded, last = min(responses, default=DAYS), days >= DAYS - _LAST_DAYS
    yield "before", float(paid[days < DRIFT_DAY].mean())
    yield "drifted", float(paid[(days >= DRIFT_DAY) & (days < responded)].mean())
    if responded < DAYS - _LAST_DAYS:
        yield "retrained", float(paid[last].mean())
        yield "unattended", float(unattended[last].mean())


def plot(drill: Drill, path: Path) -> None:
    """Plot the cost by day (mean over five days), the start of the drift and the promotions."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    days = np.array(drill.days)
    for name, costs in (("without retraining", drill.unattended), ("with retraining", drill.paid)):
        axes.plot(days, _smooth(np.array(costs)), label=name)
    axes.axvline(drill.drift_day, color="tab:red", linestyle="--", label="fraudsters change")
    for result in drill.nights:
        if result.promoted:
            axes.axvline(result.day, color="tab:green", linewidth=1, alpha=0.6)
    axes.plot([], [], color="tab:green", label="a challenger is promoted")
    title = f"Concept drift {drill.strength:g}: {drill.candidate}, retrained through the gate"
    axes.set(xlabel="day", ylabel="EUR a day", ylim=(0, None), title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _smooth(values: Floats, width: int = 5) -> Floats:
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
