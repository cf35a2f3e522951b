"""What a design brings, as types: the functions behind the commands.

A design's functions import what they need when they are called: training's libraries take seconds
to import, and neither `--help` nor a worker needs them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

    from services.platform.capacity.parts import Capacity
    from services.platform.evaluation.comparison import (
        CandidateResult,
        ComparisonLabels,
        ServeFiles,
    )
    from services.platform.evaluation.cost import CostModel
    from services.platform.models.registry import RegisteredModel
    from services.platform.retraining.spec import RetrainingSpec
    from services.platform.storage.lake import Lake
    from services.platform.types import Floats

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Problem:
    """Step 1: what a wrong decision costs, and what p95 of an answer must stay below."""

    cost: "CostModel"
    latency_budget_ms: float


@dataclass(frozen=True)
class TrafficRequest:
    """How much simulated traffic to play.

    Attributes:
        rate: Events a second.
        post_rate: Requests a second besides, for a design whose events come by another way.
        seconds: How long.
        seed: Of the simulated data set.
        drift: What changes from now on, as on the command line; empty for nothing.
    """

    rate: float
    post_rate: float
    seconds: float
    seed: int
    drift: str = ""


@dataclass(frozen=True)
class Table:
    """A table for people. Cells may hold Rich markup.

    Attributes:
        footer: Lines below it.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    footer: Sequence[str] = ()


def mark(good: bool) -> str:
    """A table's cell that says whether a target was met."""
    return "[green]ok[/]" if good else "[red]no[/]"


@dataclass(frozen=True)
class EvaluationRequest:
    """What a published protocol is run with.

    Attributes:
        file: The data set, a file or a folder.
        seed: Of training, the first of `seeds`.
        published_week_only: Train on the published week alone (fraud).
        protocol: Which protocol, empty for the design's own.
        group_by: A pattern on an image's path that gives its group (images).
        unseen: Leave each class out of training in turn (images).
        epochs: Of training; 0 for the recipe's (images).
        image_size: Of the model's input, a side or HEIGHTxWIDTH; empty for the recipe's (images).
    """

    file: Path
    candidate: str
    seed: int
    seeds: int
    published_week_only: bool
    protocol: str = ""
    group_by: str = ""
    unseen: bool = False
    epochs: int = 0
    image_size: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What a published protocol measured, for machines and for people."""

    figures: Figures
    table: Table


@dataclass(frozen=True)
class LabelledFolder:
    """Labelled files to train on.

    Attributes:
        group_by: A pattern on a file's path that gives its group; empty for `groups.csv`.
        epochs: Of training; 0 for the recipe's.
        image_size: Of the model's input, a side or HEIGHTxWIDTH; empty for the recipe's.
    """

    path: Path
    group_by: str = ""
    epochs: int = 0
    image_size: str = ""


@dataclass(frozen=True)
class DemoRequest:
    """How long each kind of live traffic lasts in the demo.

    Attributes:
        rate: Transactions a second.
        seconds: How long transactions are live.
        images_seconds: How long images are.
        seed: Of the simulated data set.
    """

    rate: float
    seconds: float
    images_seconds: float
    seed: int


@dataclass(frozen=True)
class Demo:
    """A design's part of the demo.

    Attributes:
        run: Plays live traffic and measures it.
        failures: What missed its target, a clause each; empty if nothing did.
        table: The figures for people.
    """

    run: Callable[[Settings, DemoRequest, ProgressBar], dict[str, Any]]
    failures: Callable[[Figures], list[str]]
    table: Callable[[Figures], Table]


class AuditMismatch(Protocol):
    """A decision whose logged vector differs from the recomputed one."""

    @property
    def transaction_id(self) -> str: ...
    @property
    def features(self) -> Sequence[str]: ...
    @property
    def reason(self) -> str: ...


class AuditResult(Protocol):
    """Outcome of recomputing logged features; a dataclass, whose fields are the JSON keys."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def vectors(self) -> int: ...
    @property
    def mismatches(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def gaps(self) -> int: ...
    @property
    def examples(self) -> Sequence[AuditMismatch]: ...
    @property
    def ahead(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Damage:
    """What became of what came in during a time, counted in the streams and the lake afterwards.

    Attributes:
        came_in: Payments or images of that time.
        unanswered: Those that nothing decided.
        degraded: Those that were decided without something that the decision usually has.
        lost: Those that were decided, and the lake has no decision; and events it does not have.
        doubled: Decisions and events that are stored more than once.
        compared: Decisions that were computed again.
        skewed: Those of them that differ.
        eur: What it cost, EUR; None where that is not known.
        said: Sentences: what the money is of, and what was not counted.
    """

    came_in: int
    unanswered: int
    degraded: int
    lost: int
    doubled: int
    compared: int
    skewed: int
    eur: float | None
    said: tuple[str, ...] = ()


class DriftRow(Protocol):
    """One detector on one drift: mean windows until it is seen, and the share missed."""

    @property
    def detector(self) -> str: ...
    @property
    def drift(self) -> str: ...
    @property
    def strength(self) -> float: ...
    @property
    def delay_windows(self) -> float: ...
    @property
    def miss_rate(self) -> float: ...


class DriftBenchmarkResult(Protocol):
    """How well the monitors detect injected drifts."""

    @property
    def rows(self) -> Sequence[DriftRow]: ...
    @property
    def false_alarms_per_1000(self) -> Mapping[str, float]: ...
    @property
    def clean_windows(self) -> int: ...
    def as_json(self) -> dict[str, Any]: ...


# (settings, seed, days of history, bar): make what is missing. Returns whether anything was.
Bootstrap = Callable[[Settings, int, int, ProgressBar], bool]
# Figures of the run; `failures` counts failed requests, `errors` counts them by message.
Simulate = Callable[[Settings, TrafficRequest, ProgressBar], Figures]
# (settings, candidate, seed, bar, labelled images or None): train and register.
Train = Callable[[Settings, str, int, ProgressBar, LabelledFolder | None], "RegisteredModel"]
MakeRetrainingSpec = Callable[[], "RetrainingSpec[Any, Any]"]
# (settings, seeds, bar, serve): every candidate trained on the same data and timed on an app that
# `serve` starts, and how results are labelled.
Compare = Callable[
    [Settings, list[int], ProgressBar, "ServeFiles"],
    "tuple[Sequence[CandidateResult], ComparisonLabels]",
]
# (lake, count, filter): the champion's version, and the newest monitored values (N, F).
NewestWindow = Callable[["Lake", int, "pc.Expression | None"], "tuple[int, Floats]"]
# (settings, seeds, (drift, strength) pairs, step).
BenchmarkDrifts = Callable[
    [Settings, list[int], Sequence[tuple[str, float]], ProgressCallback], DriftBenchmarkResult
]
Audit = Callable[[Settings], AuditResult]
# (settings, since, until): counts what came in between two times.
CountDamage = Callable[[Settings, datetime, datetime], Damage]
# By table of the lake whose small files are joined, its columns.
LakeTables = Callable[[], "Mapping[str, pa.Schema]"]
# The parts that the planner staffs.
MakeCapacity = Callable[[Settings], "Capacity"]
# (settings, bar): remove what has expired and nothing needs. Returns a dataclass of figures.
Expire = Callable[[Settings, ProgressBar], Any]
Evaluate = Callable[[EvaluationRequest, ProgressBar], Evaluation]
