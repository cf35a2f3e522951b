"""A model is one ONNX file that carries its requirements in its metadata, as a `ModelCard`.

Serving depends on nothing else. A file without a card, with inputs that do not match its card, or
whose scores are not scores is refused when it is loaded, not when it is first called.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.platform.models.checks.external_data import refuse_external_data
from services.platform.models.names import version_label
from services.platform.models.refused import ModelRefused
from services.platform.types import Floats32

CARD_KEY = "whiteboard"
INPUT, OUTPUT = "features", "score"
# Limit on the first calls of a file that is being loaded.
PROBE_TIMEOUT_S = 5.0


class ModelCard(BaseModel):
    """What a model file states about itself.

    Attributes:
        design: Design it belongs to.
        candidate: Name of the candidate.
        version: Number in the registry, 0 before registration.
        features: Names of the columns of its input, in order.
        feature_set: Hash of the feature set it was trained on, empty if it is not known. A model of
            another set is served where all its features are known by name.
        sets: Its other inputs, one set per row (N, M, K): names along the last axis.
        classes: Class names, in order, of a model that returns a probability for each.
        threshold: Cases with a score at or above it are stopped.
        kpi: The costs the threshold was chosen for.
        calibration_error: Expected calibration error of its scores on examples that it was not
            fitted on, 0..1; None if it was not measured.
        limits: The design's other limits, by name, such as how far an image may be scaled down.
        trained_on: Fingerprint of the training data.
        trained_at: When, UTC.
        trained_until: Event time of the newest example used to fit it or to choose its threshold.
            Only later examples may evaluate it; None: every live decision may.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    design: str
    candidate: str
    version: int = 0
    features: tuple[str, ...] = Field(min_length=1)
    feature_set: str = ""
    sets: dict[str, tuple[str, ...]] = {}
    classes: tuple[str, ...] = ()
    threshold: float = Field(ge=0.0, le=1.0)
    kpi: dict[str, float]
    calibration_error: float | None = Field(default=None, ge=0.0, le=1.0)
    limits: dict[str, float] = {}
    trained_on: str
    trained_at: datetime
    trained_until: datetime | None = None

    @property
    def label(self) -> str:
        """The version label, such as "xgboost:7"."""
        return version_label(self.candidate, self.version)

    @property
    def unseen_since(self) -> float:
        """Event time, seconds: only decisions after it may evaluate the model, or train it on."""
        return self.trained_until.timestamp() if self.trained_until else 0.0


class ScoringModel(Protocol):
    """What serving, shadow mode and the gate need of a model, whatever its input is."""

    card: ModelCard

    def score(self, vectors: npt.NDArray[Any], sets: Mapping[str, Floats32]) -> Floats32:
        """Scores (N,) in 0..1 of N inputs (N, ...) and their sets, each (N, M, K)."""
        ...


def write_card(model: bytes, card: ModelCard) -> bytes:
    """Write a card into an ONNX file, replacing any card it has."""
    # Only training writes cards, so serving does not need the onnx package.
    import onnx

    proto = onnx.load_model_from_string(model)
    kept = [p for p in proto.metadata_props if p.key != CARD_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    proto.metadata_props.add(key=CARD_KEY, value=card.model_dump_json())
    data: bytes = proto.SerializeToString()
    return data


def read_card(session: ort.InferenceSession, design: str) -> ModelCard:
    """The card in a session's file. ModelRefused without one, or if it is another design's."""
    text = session.get_modelmeta().custom_metadata_map.get(CARD_KEY)
    if text is None:
        raise ModelRefused("no model card in its metadata")
    try:
        card = ModelCard.model_validate_json(text)
    except ValidationError as error:
        raise ModelRefused(f"unreadable model card: {error.errors()[0]['msg']}") from error
    if card.design != design:
        raise ModelRefused(f"a model of {card.design!r}, not of {design!r}")
    return card


@contextmanager
def probe() -> Iterator[ort.RunOptions]:
    """Run options for a first call of ONNX Runtime, which must succeed within `PROBE_TIMEOUT_S`.

    A model that takes minutes for a probe would occupy a core, and Python cannot stop a thread from
    outside: the runtime terminates the call itself.

    Raises:
        ModelRefused: the call failed or was terminated.
    """
    options, ended = ort.RunOptions(), threading.Event()

    def terminate() -> None:
        ended.set()
        options.terminate = True

    alarm = threading.Timer(PROBE_TIMEOUT_S, terminate)
    alarm.daemon = True
    alarm.start()
    try:
        yield options
    except Exception as error:  # onnxruntime raises a class of its own for each kind
        timed_out = f"hangs: no answer within {PROBE_TIMEOUT_S:.0f} s"
        raise ModelRefused(timed_out if ended.is_set() else f"fails: {error}") from error
    finally:
        alarm.cancel()


def open_session(data: bytes, threads: int = 1, optimised: bool = True) -> ort.InferenceSession:
    """An ONNX Runtime session. ModelRefused if the file is not a model, or refers to other files.

    Args:
        threads: One by default: for one row a thread pool costs more than it gains.
        optimised: Fold constants, fuse nodes and pack weights before the first call. That cannot
            be terminated from outside and takes minutes for a malicious file; without it a file
            opens at once and does the same work within its calls, which can be terminated. So an
            unknown file is probed unoptimised first.
    """
    refuse_external_data(data)
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each kind
        raise ModelRefused(f"not a model: {str(error)[:200]}") from error
