"""What a design provides for retraining, and what the commands provide and get back."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

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
from services.platform.types import Booleans, Floats

MIN_SHADOWED = 500


# A share of positives beyond this many times the usual one is no sample of the same decisions.
MAX_SHARE_RATIO = 10.0
# Labels of one kind alone are chance among fewer, and their mix says little.
_MIN_FOR_MIX = 20


class TooFewLabels(ValueError):
    """Too few labelled decisions to train on or to evaluate with."""


class ImplausibleLabels(TooFewLabels):
    """Labels in a mix that cannot be: none of them counts."""


def check_mix(
    positive: Booleans,
    decisions: str,
    word: str,
    prior: float = float("nan"),
    counted: Floats | None = None,
) -> None:
    """Refuse labels (N,) in a mix that cannot be: all positive, none, or far more than usual.

    Args:
        decisions: The word for labelled decisions.
        word: The word for positives.
        prior: The usual share of positives; NaN if it is not known.
        counted: (N,) how many decisions each stands for in a sample of them; None: itself.

    Raises:
        ImplausibleLabels: with the figures and what to do.
    """
    count, positives = len(positive), int(positive.sum())
    if count < _MIN_FOR_MIX:
        return
    share = float(np.average(positive, weights=counted))
    problem = ""
    if positives == count:
        problem = f"all {count:,} {decisions} are {word}"
    elif positives == 0:
        problem = f"none of {count:,} {decisions} are {word}"
    elif positives >= _MIN_FOR_MIX and share > MAX_SHARE_RATIO * prior:
        problem = (
            f"{positives:,} of {count:,} {decisions} are {word} ({share:.1%}), more "
            f"than {MAX_SHARE_RATIO:.0f} times the usual {prior:.2%}"
        )
    if problem:
        raise ImplausibleLabels(
            f"{problem}. Check that all decisions get labels, undisputed ones too, and that events "
            "of another time carry a feed of their own (docs/monitoring.md)"
        )


@dataclass(frozen=True)
class RequiredLabels:
    """How many labelled decisions training and gate need.

    Attributes:
        count: Labelled decisions.
        positives: Of them, those whose label is positive.
        decisions: The word for labelled decisions.
        positive: The word for positives.
        remedy: How to get more.
    """

    count: int
    positives: int
    decisions: str
    positive: str
    remedy: str

    def check(
        self,
        positive: Booleans,
        which: str,
        purpose: str,
        prior: float = float("nan"),
        counted: Floats | None = None,
    ) -> None:
        """Check the labels (N,) of the decisions there are.

        Args:
            which: The decisions that count, for the message.
            purpose: What they are needed for, for the message.
            prior: The usual share of positives; NaN if it is not known.
            counted: See `check_mix`.

        Raises:
            TooFewLabels: there are too few.
            ImplausibleLabels: their mix cannot be.
        """
        count, positives = len(positive), int(positive.sum())
        check_mix(positive, f"{self.decisions} {which}", self.positive, prior, counted)
        if count < self.count or positives < self.positives:
            raise TooFewLabels(
                f"{count:,} {self.decisions} with {positives} {self.positive} {which}; "
                f"{self.count:,} with {self.positives} are needed {purpose}{self.remedy}"
            )


class NoTraffic(ValueError):
    """No decisions were requested, or none that can be scored again: shadow mode has no work."""


class NewOutcomes(Protocol):
    """Labelled decisions since a model was trained."""

    @property
    def day(self) -> str:
        """Until when there are labels, as YYYY-MM-DD or finer: a training is done once for each."""
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
