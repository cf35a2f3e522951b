"""The page's JSON, as OpenAPI documents it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Metrics that the report of a fault and the waterfall need, whatever a diagram shows.
METRICS = frozenset(
    {"requests_total", "decisions_total", "request_duration_seconds", "outbox_events",
     "outbox_dropped_events", "consumer_lag_events", "stage_duration_seconds"}
)  # fmt: skip
Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,40}$")]
CostName = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# "opex=8.5"
Cost = Annotated[str, Field(pattern=r"^[a-z_]{1,40}=\d{1,9}(\.\d{1,6})?$")]


class FigureState(BaseModel):
    """A live figure; null where its source does not tell."""

    label: str
    unit: str
    value: float | None


class StepState(BaseModel):
    """One of a design's eight steps, with the boxes that it decides about."""

    number: int
    title: str
    file: str
    line: int
    decision: str
    why: str
    figures: list[str]
    boxes: list[str]


class BoxState(BaseModel):
    """A part of the diagram: what it is, how it is, and what is asked about it.

    `state` is running, degraded, hanging, down, "not started" (never in this home), unknown (not
    read yet), or, of what is no process, active or idle.
    """

    id: str
    label: str
    state: str
    process: str
    step: int
    x: int
    y: int
    file: str
    line: int
    command: str
    question: str
    answer: str
    faults: dict[str, str]
    aws: str
    at_scale: str
    figures: list[FigureState]


class LabelPlace(BaseModel):
    """Where an arrow's texts are: `x` of both, baselines of its rate and of what waits."""

    x: float
    y: float
    second_y: float
    anchor: Literal["start", "middle", "end"]


class ArrowState(BaseModel):
    """What moves between two boxes; `rate` a second, null where it is not measured."""

    model_config = ConfigDict(populate_by_name=True)

    source: Annotated[str, Field(serialization_alias="from")]
    target: Annotated[str, Field(serialization_alias="to")]
    path: str
    label: str
    label_at: LabelPlace
    rate: float | None
    waits: float | None


class CandidateState(BaseModel):
    """A model that can become the champion, and what it is good at."""

    name: str
    role: str


class DesignState(BaseModel):
    """One design; `audited`: its logged decisions can be computed again from the events."""

    name: str
    title: str
    event: str
    traffic_rate: float
    audited: bool
    load_rate: int
    budget_ms: float
    drifts: list[str]
    commands: list[str]
    candidates: list[CandidateState]
    steps: list[StepState]
    boxes: list[BoxState]
    arrows: list[ArrowState]


class Progress(BaseModel):
    """Work of a first start that is under way; `total` is 0 where it is not known."""

    design: str
    title: str
    done: int
    total: int


class State(BaseModel):
    """Everything that the page shows."""

    designs: list[DesignState]
    progress: list[Progress]


class LiveBox(BaseModel):
    """State and figures of a box, in order of `BoxState.figures`."""

    state: str
    figures: list[float | None]


class LiveArrow(BaseModel):
    """Rate of an arrow, and what waits."""

    rate: float | None
    waits: float | None


class LiveDesign(BaseModel):
    """By id the boxes, and the arrows in order of `DesignState.arrows`."""

    boxes: dict[str, LiveBox]
    arrows: list[LiveArrow]


class StageState(BaseModel):
    """Mean time of a stage of a design's requests over the newest readings, milliseconds.

    `on_path` is false for what is done after the answer.
    """

    name: str
    mean_ms: float
    on_path: bool


class Tick(BaseModel):
    """What one reading of all sources changed, by design."""

    designs: dict[str, LiveDesign]
    progress: list[Progress] = []


class FaultRequest(BaseModel):
    """A process to break, and how.

    `seconds` counts for hang, away and slow; the last three are of slow, which is for engines.
    """

    model_config = ConfigDict(extra="forbid")

    process: Name
    kind: Literal["kill", "hang", "away", "slow"]
    seconds: Annotated[int, Field(ge=1, le=60)] = 10
    latency_ms: Annotated[float, Field(ge=0, le=10_000)] = 30
    jitter_ms: Annotated[float, Field(ge=0, le=10_000)] = 20
    resets: Annotated[float, Field(ge=0, le=1)] = 0.01


class DamageState(BaseModel):
    """What became of what came in from before a fault until it was mended, counted in the lake.

    Attributes:
        lost: Decided without a decision in the lake, and events that it does not have.
        doubled: Decisions and events that are stored more than once.
        compared: Decisions that were computed again.
        skewed: Those of them that differ.
        eur: What it cost; null where that is not known.
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
    said: list[str]


class FaultReport(BaseModel):
    """What a fault did; figures are of the design's own service while it lasted and mended.

    Attributes:
        phase: striking, mending, counting (what was lost, once the lake has everything: up to a
            minute or two), done, or failed.
        expected: What was said beforehand.
        down_s: From the fault to the first answer afterwards.
        in_budget: Share of answers within the latency budget.
        waiting: The most events that waited for any worker.
        damage: What was lost, doubled, skewed and what it cost; null before it is counted.
        uncounted: Why it could not be counted.
    """

    process: str
    kind: str
    phase: str
    expected: str
    error: str = ""
    seconds: float = 0.0
    down_s: float | None = None
    answers: int = 0
    failed: int = 0
    degraded: int = 0
    in_budget: float | None = None
    outbox: int = 0
    dropped: int = 0
    waiting: int = 0
    damage: DamageState | None = None
    uncounted: str = ""


class JobRequest(BaseModel):
    """A command of `whiteboard` for a design, with its parameters."""

    model_config = ConfigDict(extra="forbid")

    verb: Literal["simulate", "load", "swap", "rollback", "night", "audit", "costs"]
    design: Name
    rate: Annotated[int, Field(ge=1, le=2_000)] = 50
    seconds: Annotated[int, Field(ge=5, le=600)] = 60
    knee: bool = False
    candidate: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] | None = None
    drift: Annotated[str, Field(pattern=r"^[a-z_]+=(0(\.\d{1,3})?|1(\.0)?)$|^none$")] | None = None
    costs: Annotated[dict[CostName, Amount], Field(max_length=12)] = {}


class JobState(BaseModel):
    """A command that runs or ran.

    Attributes:
        phase: running, done, refused (the gate refused a challenger), failed or stopped.
        output: The end of what it printed, its progress too.
        figures: Its JSON, once it is done.
    """

    command: str
    verb: str
    design: str
    phase: str
    seconds: float
    output: str
    figures: dict[str, Any] | None = None


class LabelRequest(BaseModel):
    """What a person says about a decision."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    # A class of a folder of images may be any name; `Walkthrough.label` knows which there are.
    label: Annotated[str, Field(min_length=1, max_length=255)]


class Labelled(BaseModel):
    """What a person's verdict did, in a sentence."""

    said: str


class Problem(BaseModel):
    """Why a request was refused: one sentence."""

    error: str
