"""The drill: why a model is retrained. Fraudsters change, the cost rises, and the nights answer it.

Months pass in memory within a minute. Simulator, kernel, candidate, threshold and gate are the real
ones; there is no engine and no waiting, so a night's challenger is judged by labelled days alone
and by how long its calls take here. What the first champion would have cost, had nobody retrained,
is reckoned beside what was paid.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from services.fraud.evaluation.simulated_data import World, midnight
from services.fraud.problem import DISPUTE_WINDOW_DAYS, LATENCY_BUDGET_MS, Kpi
from services.fraud.retraining.plan import VALIDATION_SHARE
from services.fraud.retraining.training import (
    GATE_DAYS,
    VALIDATION_DAYS,
    WARM_UP_DAYS,
    card_of,
    new_candidate,
    threshold_of,
)
from services.fraud.serving.app import read_model
from services.fraud.simulator.drift import Drift
from services.platform.evaluation.cost import Floats
from services.platform.models.candidates import Candidate
from services.platform.models.onnx import Model, stamp
from services.platform.progress import Bar
from services.platform.retraining.gate import Evidence, Side, Verdict, judge

FIRST_FIT_UNTIL = 37
DRIFT_DAY = 60
DAYS = 120
# The gate judges by the newest labelled days: a night each so often, and it sees new ones.
NIGHT_EVERY = GATE_DAYS
_LAST_DAYS = 21
_TIMED_CALLS = 300


@dataclass(frozen=True)
class Night:
    """What one night came to. until: The newest day that was trained on."""

    day: int
    promoted: bool
    reasons: list[str]
    saves_eur: float
    until: int


@dataclass(frozen=True)
class Drill:
    """The outcome, by day from the first that was served.

    Attributes:
        days: Their numbers. paid, unattended: Cost of each in EUR, as served and as the first
            champion would have had it. nights: In order.
        means: Mean cost of a day in EUR: before the drift; after it, until a challenger that had
            seen drifted days was promoted; and of the last days, as paid and as unattended.
    """

    candidate: str
    strength: float
    drift_day: int
    days: list[int]
    paid: list[float]
    unattended: list[float]
    nights: list[Night] = field(default_factory=list)
    means: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


@dataclass(frozen=True)
class _Seat:
    """Whoever is champion. until: First day that it was neither trained nor chosen on."""

    native: Candidate
    model: Model
    until: int

    @property
    def threshold(self) -> float:
        return self.model.card.threshold


def run(candidate: str, strength: float, seed: int, bar: Bar) -> Drill:
    """Let months pass, with concept drift from `DRIFT_DAY` on.

    Args:
        strength: 0..1, see `Drift.concept`.

    Raises:
        KeyError: no such candidate. ValueError: it needs more than the tabular features.
    """
    native = new_candidate(candidate)
    if type(native).groups or type(native).sets:
        raise ValueError(f"{candidate} needs a graph or carts, which pass no night in memory")
    schedule = ((midnight(DRIFT_DAY), Drift(concept=strength)),)
    with bar("months pass") as step:
        world = World(seed, DAYS, schedule, step)
    first = _first(native, world, seed, bar)
    seat, nights, served = first, [], {}
    with bar("nights, and the days between") as step:
        for day in range(first.until, DAYS):
            if day >= DRIFT_DAY and (day - DRIFT_DAY) % NIGHT_EVERY == 0:
                seat, night = _night(seat, world, day, seed)
                nights.append(night)
            served[day] = seat
            step(day - first.until + 1, DAYS - first.until)
    days = list(served)
    drill = Drill(
        candidate=candidate,
        strength=strength,
        drift_day=DRIFT_DAY,
        days=days,
        paid=[_cost(served[day], world, day) for day in days],
        unattended=[_cost(first, world, day) for day in days],
        nights=nights,
    )
    return replace(drill, means=dict(_means(drill)))


def _first(native: Candidate, world: World, seed: int, bar: Bar) -> _Seat:
    known = FIRST_FIT_UNTIL + VALIDATION_DAYS
    fit = world.examples(WARM_UP_DAYS, FIRST_FIT_UNTIL)
    with bar(f"training {native.name}") as step:
        native.fit(fit, world.examples(FIRST_FIT_UNTIL, known), seed, step)
    return _seat(native, world, FIRST_FIT_UNTIL, known)


def _seat(native: Candidate, world: World, first: int, until: int) -> _Seat:
    """A trained candidate as serving has it, its threshold chosen on days `first` to `until`."""
    threshold = threshold_of(native, world.examples(first, until))
    card = card_of(native, threshold, "drill", midnight(until) / 1e6)
    return _Seat(native, read_model(stamp(native.export(), card)), until)


def _night(seat: _Seat, world: World, day: int, seed: int) -> tuple[_Seat, Night]:
    """Train the champion on with what is labelled by now, and ask the gate."""
    labelled = day - DISPUTE_WINDOW_DAYS
    until = labelled - GATE_DAYS
    if until - seat.until < GATE_DAYS:
        return seat, Night(day, False, ["too few labels since the champion was trained"], 0.0, 0)
    chosen_from = until - max(round(VALIDATION_SHARE * (until - seat.until)), 1)
    # Trained on from a copy: a challenger that is refused leaves nothing behind.
    native = _copy(seat.native)
    native.fit_more(world.examples(seat.until, chosen_from), seed, lambda *_: None)
    challenger = _seat(native, world, chosen_from, until)
    verdict = _judged(seat, challenger, world, until, labelled)
    saves = -verdict.figures["cost_difference"] / 100
    night = Night(day, verdict.promoted, verdict.reasons, saves, until)
    return (challenger if verdict.promoted else seat), night


def _copy(native: Candidate) -> Candidate:
    made = new_candidate(native.name)
    with TemporaryDirectory() as folder:
        native.save(Path(folder))
        made.load(Path(folder))
    return made


def _judged(champion: _Seat, challenger: _Seat, world: World, first: int, until: int) -> Verdict:
    of = world.between(first, until)
    vectors = world.vectors[of]
    evidence = Evidence(
        champion=_side(champion.model, vectors),
        challenger=_side(challenger.model, vectors),
        positive=world.fraud[of],
        amount=world.amount[of],
        unit=np.unique(world.customer[of], return_inverse=True)[1],
    )
    return judge(evidence, Kpi().costs, LATENCY_BUDGET_MS / 1e3)


def _side(model: Model, vectors: Floats) -> Side:
    seconds = []
    for row in range(min(_TIMED_CALLS, len(vectors))):
        begin = perf_counter()
        model.score(vectors[row : row + 1])
        seconds.append(perf_counter() - begin)
    return replace(Side.of(model, vectors, {}), seconds=np.array(seconds))


def _cost(seat: _Seat, world: World, day: int) -> float:
    """What a day cost, EUR."""
    of = world.between(day, day + 1)
    declined = seat.model.score(world.vectors[of]) >= seat.threshold
    return Kpi().total(declined, world.fraud[of], world.amount[of]) / 100


def _means(drill: Drill) -> Iterator[tuple[str, float]]:
    days, paid, alone = (np.array(x) for x in (drill.days, drill.paid, drill.unattended))
    saw = [n.day for n in drill.nights if n.promoted and n.until > DRIFT_DAY]
    answered, last = min(saw, default=DAYS), days >= DAYS - _LAST_DAYS
    yield "before", float(paid[days < DRIFT_DAY].mean())
    yield "drifted", float(paid[(days >= DRIFT_DAY) & (days < answered)].mean())
    if answered < DAYS - _LAST_DAYS:
        yield "retrained", float(paid[last].mean())
        yield "unattended", float(alone[last].mean())


def plot(drill: Drill, path: Path) -> None:
    """Cost by day, a mean over five; where the world changed, and each night's outcome."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    days = np.array(drill.days)
    for name, costs in (("the first champion, unattended", drill.unattended), ("paid", drill.paid)):
        axes.plot(days, _smooth(np.array(costs)), label=name)
    axes.axvline(drill.drift_day, color="tab:red", linestyle="--", label="fraudsters change")
    for night in drill.nights:
        if night.promoted:
            axes.axvline(night.day, color="tab:green", linewidth=1, alpha=0.6)
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
