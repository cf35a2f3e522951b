"""What a design brings to the walkthrough, as types."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.platform.diagram import Diagram
from services.platform.settings import Settings

if TYPE_CHECKING:
    from services.platform.evaluation.what_if import Decided, LoggedDecisions, Slider


@dataclass(frozen=True)
class Mark:
    """One stop of an event on its way through a design.

    Attributes:
        box: Id of a box of the diagram.
        stage: What happened there.
        at_ms: Since the event was sent.
        took_ms: How long that took, where it was measured.
        detail: Figures and names.
    """

    box: str
    stage: str
    at_ms: float
    took_ms: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class ComparedValue:
    """A value beside the usual ones: 5 %, 50 % and 95 % of the newest decisions."""

    name: str
    value: float | None
    usual: tuple[float, float, float]


@dataclass(frozen=True)
class ScoreMap:
    """A map of scores over an image, on the scale of `platform.colour_scale`.

    Attributes:
        title: What is scored.
        key: Of its PNG among the results.
        channel: Of the PNG.
        threshold: The score whose colour is the middle of the scale; the scale ends at twice that.
        unit: Of the score, in words.
    """

    title: str
    key: str
    channel: int
    threshold: float
    unit: str


@dataclass(frozen=True)
class DecisionView:
    """A decision as the walkthrough shows it.

    Attributes:
        id: Its identity.
        at: Event time, ISO 8601.
        title: What it is about.
        decision: The outcome.
        stopped: Whether the payment or part was stopped.
        score: Probability of the bad class.
        threshold: The model's.
        model: "candidate:version".
        reason: Why it was decided in an unusual way, in words.
        reasons: Why it was stopped, in words, the strongest first.
        note: Why reasons or image are missing, empty where none is.
        facts: Names and values.
        values: Values beside the usual ones, the most unusual first.
        image: Key of the image in the inbox, empty for none.
        maps: Why, over the image.
        labels: What a person can say about it.
    """

    id: str
    at: str
    title: str
    decision: str
    stopped: bool
    score: float
    threshold: float
    model: str
    reason: str = ""
    reasons: Sequence[str] = ()
    note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    values: Sequence[ComparedValue] = ()
    image: str = ""
    maps: Sequence[ScoreMap] = ()
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Money:
    """What a design brings to the view of money.

    Attributes:
        sliders: Costs that can be changed.
        outcomes: Names by code.
        present: The present costs by name, as the sliders show them. Raises OSError.
        read: Logged decisions, None before any. Blocks. Raises OSError.
        decide: Decides logged decisions by costs.
    """

    sliders: "Sequence[Slider]"
    outcomes: Sequence[str]
    present: Callable[[Settings], Awaitable[Mapping[str, float]]]
    read: "Callable[[Settings], LoggedDecisions | None]"
    decide: "Callable[[LoggedDecisions, Mapping[str, float]], Decided]"


@dataclass(frozen=True)
class Walkthrough:
    """What a design brings to the walkthrough.

    Attributes:
        diagram: Boxes, arrows and their live figures.
        event: What is followed, such as "payment".
        follow: Sends one event and tells its stops. Raises OSError, ValueError.
        newest: The newest decisions, newest first. Raises OSError, ValueError.
        label: Takes a person's verdict on a decision, and says what it did. Raises ValueError for a
            word that is no label of it, LookupError if it is none of the newest decisions, OSError.
        money: Makes the view of money.
    """

    diagram: Diagram
    event: str
    follow: Callable[[Settings], AsyncIterator[Mark]]
    newest: Callable[[Settings, int], Awaitable[list[DecisionView]]]
    label: Callable[[Settings, str, str], Awaitable[str]]
    money: Callable[[], Money]
