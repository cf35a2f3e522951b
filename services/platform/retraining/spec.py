"""What a design provides for retraining, and what the commands provide and get back."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from services.platform.models.candidates import CandidateRegistry
from services.platform.models.names import version_path
from services.platform.models.onnx import ModelCard
from services.platform.models.promotion_log import PromotionRecord
from services.platform.models.registry import RegisteredModel
from services.platform.models.served_model import M
from services.platform.progress import ProgressBar
from services.platform.retraining.gate import Costs, Evidence
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Floats

MIN_SHADOWED = 500


class TooFewLabels(ValueError):
    """Too few labelled decisions to train on or to evaluate with."""


class NoTraffic(ValueError):
    """No decisions were requested, so shadow mode has nothing to score."""


class NewOutcomes(Protocol):
    """Labelled decisions since a model was trained."""

    @property
    def day(self) -> str:
        """The newest labelled day among them, YYYY-MM-DD."""
        ...


D = TypeVar("D", bound=NewOutcomes)


@dataclass(frozen=True)
class RetrainingSpec(Generic[M, D]):
    """What a design provides.

    Attributes:
        design: Name of the design.
        candidates: Its candidates.
        read_model: Makes a model of a file.
        train: Trains a candidate from scratch and registers it.
        new_outcomes: Labelled decisions since a card's model was trained, without the days held out
            for the gate. TooFewLabels if they are too few.
        train_further: Continues training a card's model, from its native form in a folder, and
            registers the result.
        gate_evidence: Both models' scores on labelled decisions that neither was trained on.
            TooFewLabels if they are too few.
        costs: The cost model.
        budget_ms: Limit on the p95 latency of a response.
        decision_stream: The stream of decisions.
        route: The route whose latency counts, at `url`.
        url: Base URL of the design's service.
        before_retraining: What nightly retraining does first; returns a summary.
        min_shadowed: Live decisions that a challenger must score.
    """

    design: str
    candidates: CandidateRegistry
    read_model: Callable[[bytes], M]
    train: Callable[[Settings, str, int, ProgressBar], RegisteredModel]
    new_outcomes: Callable[[Settings, Lake, ModelCard, ProgressBar], D]
    train_further: Callable[[Settings, ModelCard, Path, D, int, ProgressBar], RegisteredModel]
    gate_evidence: Callable[[Settings, Lake, list[M], ProgressBar], Evidence]
    costs: Costs
    budget_ms: float
    decision_stream: str
    route: str
    url: Callable[[Settings], str]
    before_retraining: Callable[[Settings, ProgressBar], str] | None = None
    min_shadowed: int = MIN_SHADOWED

    def model(self, lake: Lake, version: int) -> M:
        """A registered version. FileNotFoundError if its file is gone."""
        return self.read_model(lake.get(version_path(self.design, version)))


@dataclass(frozen=True)
class ShadowTraffic:
    """Where the live decisions for a challenger come from.

    Attributes:
        timeout_s: How long to wait for the next decision.
        source: Context that generates traffic while it is entered; by default none.
        on_timings: Called with the timings so far: (K, 2) seconds of the challenger's and the
            champion's calls.
    """

    timeout_s: float = 60.0
    source: Callable[[], AbstractContextManager[None]] = nullcontext
    on_timings: Callable[[Floats], None] = lambda _: None


@dataclass(frozen=True)
class ChallengeResult:
    """The result of a challenge.

    Attributes:
        message: Summary for people.
        record: The promotion or refusal; None if there was nothing to do.
    """

    message: str
    record: PromotionRecord | None = None
