"""A design's diagram as data: boxes, arrows and the live figures on them.

The walkthrough draws it with live figures, the docs draw it without. Positions are given by hand in
units of a drawing that is `WIDTH` wide and as high as its boxes need.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

WIDTH = 1340
BOX_WIDTH, BOX_HEIGHT = 180, 96

ENGINES = ("nats", "redis", "seaweedfs")
Kind = Literal["rate", "gauge", "p95"]


class Texts(TypedDict):
    """Texts of a box: what a fault will do, by kind, and what takes its place on AWS."""

    faults: Mapping[str, str]
    aws: str


@dataclass(frozen=True)
class Measure:
    """A live figure.

    Attributes:
        label: What it is called beside its value.
        source: The process that shows the metric, or an engine.
        metric: Name of the metric; of a histogram without its suffix.
        kind: rate: growth a second; gauge: the value now; p95: of the newest observations.
        unit: Shown behind the value.
        labels: Only series with these labels count; a value that begins with "!" excludes.
        scale: The value is multiplied by this.
    """

    label: str
    source: str
    metric: str
    kind: Kind = "rate"
    unit: str = "/s"
    labels: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0


@dataclass(frozen=True)
class Box:
    """A part of the diagram.

    Attributes:
        id: Its name in arrows and in the page's address.
        label: As a person reads it.
        step: Name of the step that decides about it, such as "ingestion".
        x: Left edge.
        y: Upper edge.
        process: The process or engine that is this part; empty for what is outside the system.
        figures: What is shown in it, the most important first.
        degraded: While this is above 0, the part works with a reduced function.
        command: Shows it in a terminal.
        question: What an interviewer asks about it.
        answer: Two sentences.
        faults: By kind of fault (kill, hang, away, slow), what will happen.
        aws: What takes its place on AWS.
        at_scale: What it becomes at 50,000 events a second, or on twelve lines.
    """

    id: str
    label: str
    step: str
    x: int
    y: int
    process: str = ""
    figures: Sequence[Measure] = ()
    degraded: Measure | None = None
    command: str = ""
    question: str = ""
    answer: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)
    aws: str = ""
    at_scale: str = ""


@dataclass(frozen=True)
class Arrow:
    """What moves from one box to another.

    Attributes:
        source: Id of the box where it begins.
        target: Id of the box where it ends.
        path: Absolute SVG path of horizontal and vertical lines.
        label: What moves.
        rate: How much of it.
        waits: How much of it waits.
    """

    source: str
    target: str
    path: str
    label: str
    rate: Measure | None = None
    waits: Measure | None = None


@dataclass(frozen=True)
class Diagram:
    """Boxes in reading order, and arrows."""

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...] = ()

    @property
    def measures(self) -> list[Measure]:
        """Every live figure."""
        of_boxes = [m for box in self.boxes for m in (*box.figures, box.degraded) if m]
        return of_boxes + [m for arrow in self.arrows for m in (arrow.rate, arrow.waits) if m]


# Faults and AWS texts of boxes that several designs have.
SCHEDULER_TEXTS: Texts = {
    "faults": {
        "kill": "A running job ends with it and is not retried; the champion keeps serving.",
        "hang": "Commands wait on the control stream; the champion keeps serving.",
        "away": "No retraining tonight; the champion keeps serving.",
    },
    "aws": "EventBridge and SageMaker Pipelines.",
}
LAKE_WRITER_TEXTS: Texts = {
    "faults": {
        "kill": "Rows wait in the stream; a batch may be written twice and is read once.",
        "hang": "The lag grows; serving does not depend on it.",
        "away": "The lag grows; serving does not depend on it.",
    },
    "aws": "Kinesis Data Firehose to S3.",
}
SHADOW_TEXTS: Texts = {
    "faults": {
        "kill": "The challenger's scores pause; nothing outside changes.",
        "hang": "The challenger's scores pause; a running challenge waits.",
        "away": "The challenger's scores pause; a running challenge waits.",
    },
    "aws": "SageMaker shadow tests.",
}
MONITOR_TEXTS: Texts = {
    "faults": {
        "kill": "It reads the stream again from its checkpoint and cuts the same windows.",
        "hang": "Alerts come late; no decision depends on it.",
        "away": "Alerts come late; no decision depends on it.",
    },
    "aws": "SageMaker Model Monitor and CloudWatch.",
}
# How the fault `slow` begins, for each engine.
SLOW = (
    "It moves behind a proxy: 30 ms more a round trip, up to 20 more by chance, one chunk in a "
    "hundred resets its connection, and it is away for a second at both ends. "
)


def events_rate(process: str, label: str = "events") -> Measure:
    """Events that a worker handles a second."""
    return Measure(label, process, "events_total")


def lag(process: str) -> Measure:
    """Events that wait for a worker."""
    return Measure("waiting", process, "consumer_lag_events", "gauge", "")


def stream_rate(stream: str, label: str = "messages") -> Measure:
    """Messages a second that a stream of NATS takes."""
    return Measure(label, "nats", "stream_last_seq", labels={"stream": stream})


def default_diagram(service: str, workers: Sequence[str]) -> Diagram:
    """The diagram of a design that brings none: its service, the stream, and its workers."""
    requests = Measure("requests", service, "requests_total")
    latency = Measure("p95", service, "request_duration_seconds", "p95", "ms", scale=1e3)
    boxes = [
        Box("service", service, "serving", 20, 40, service, (requests, latency)),
        Box("nats", "NATS JetStream", "ingestion", 300, 40, "nats"),
    ]
    arrows = [Arrow("service", "nats", "M200 88 H300", "decisions", requests)]
    for row, name in enumerate(workers):
        y = 40 + 130 * row
        figures = (events_rate(name), lag(name))
        boxes.append(Box(name, name, "monitoring", 580, y, name, figures))
        path = f"M480 88 H530 V{y + 48} H580"
        arrows.append(Arrow("nats", name, path, "events", figures[0], figures[1]))
    return Diagram(tuple(boxes), tuple(arrows))
