"""A model is one ONNX file that says what it needs, and serving knows nothing else.

The file's metadata holds a `ModelCard`. A file whose card is missing, whose inputs do not match
it, or that does not score like a model is refused when it is loaded, not when it is asked.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field, ValidationError

CARD_KEY = "whiteboard"
INPUT, OUTPUT = "features", "score"
# A file has so long to answer a probe when it is loaded.
CHECK_S = 5.0

Floats32 = npt.NDArray[np.float32]


class ModelRefused(ValueError):
    """A file that is no usable model; the message says why. Whoever serves keeps the old one."""


class ModelCard(BaseModel):
    """What a model file says of itself.

    Attributes:
        design, candidate: Whose it is. version: Its number in the registry, 0 before it has one.
        features: Names of the columns of its input, in order.
        sets: Its other inputs, each a set per row (N, M, K): the names along their last axis.
        classes: What it tells apart, in order, for a model that answers a probability for each.
        threshold: Score at and above which the answer is no.
        kpi: The costs the threshold was chosen for.
        trained_on: Fingerprint of the training data. trained_at: When, UTC.
        trained_until: Event time of the newest example it was fitted or its threshold chosen on.
            What came later is what it can be judged by; None: all that is decided live.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    design: str
    candidate: str
    version: int = 0
    features: tuple[str, ...] = Field(min_length=1)
    sets: dict[str, tuple[str, ...]] = {}
    classes: tuple[str, ...] = ()
    threshold: float = Field(ge=0.0, le=1.0)
    kpi: dict[str, float]
    trained_on: str
    trained_at: datetime
    trained_until: datetime | None = None


class Scoring(Protocol):
    """What serving, shadow mode and the gate ask of a model, whatever it looks at."""

    card: ModelCard

    def score(self, vectors: npt.NDArray[Any], sets: Mapping[str, Floats32]) -> Floats32: ...


def stacked(sets: Sequence[Floats32]) -> Floats32:
    """N sets (1, m, K) as one (N, M, K), filled up with items whose first figure is -1."""
    most = max(one.shape[1] for one in sets)
    out = np.zeros((len(sets), most, sets[0].shape[2]), dtype=np.float32)
    out[:, :, 0] = -1.0
    for row, one in zip(out, sets, strict=True):
        row[: one.shape[1]] = one[0]
    return out


def stamp(model: bytes, card: ModelCard) -> bytes:
    """Write a card into an ONNX file, in place of any it had."""
    # Only training stamps, so serving need not carry the onnx package.
    import onnx

    proto = onnx.load_model_from_string(model)
    kept = [p for p in proto.metadata_props if p.key != CARD_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    proto.metadata_props.add(key=CARD_KEY, value=card.model_dump_json())
    data: bytes = proto.SerializeToString()
    return data


class Model:
    """An ONNX session and its card, checked and warm."""

    def __init__(
        self,
        data: bytes,
        design: str,
        known: tuple[str, ...],
        known_sets: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Load a file.

        Args:
            data: The file. design: Whose models are accepted.
            known: Names of the features that can be computed here.
            known_sets: Names of the sets that can be, with those along their last axis.

        Raises:
            ModelRefused: it is corrupt, of another design, or needs what is not there.
        """
        self._session = open_session(data, prepared=False)
        self.card = read_card(self._session, design)
        missing = [name for name in self.card.features if name not in known]
        if missing:
            raise ModelRefused(f"needs unknown features: {', '.join(missing[:5])}")
        for name, names in self.card.sets.items():
            if (known_sets or {}).get(name) != names:
                raise ModelRefused(f"needs an unknown set: {name} of {', '.join(names)}")
        self.columns = np.array([known.index(name) for name in self.card.features])
        _check_signature(self._session, len(self.columns), self.card.sets)
        # Columns in a row are a view; only a real choice among them is copied.
        self.width = int(self.columns.max()) + 1
        first, last = int(self.columns[0]), int(self.columns[-1]) + 1
        in_a_row = np.array_equal(self.columns, np.arange(first, last))
        self._chosen: Any = slice(first, last) if in_a_row else self.columns
        self._check_scores()
        self._session = open_session(data)
        self._check_scores()

    def score(
        self,
        vectors: npt.NDArray[np.float64],
        sets: Mapping[str, Floats32] | None = None,
        options: ort.RunOptions | None = None,
    ) -> Floats32:
        """Scores (N,) in 0..1 of N feature vectors (N, len(known)) and the sets it needs."""
        inputs = {INPUT: vectors[:, self._chosen].astype(np.float32)}
        for name in self.card.sets:
            inputs[name] = (sets or {})[name]
        found: Any = self._session.run([OUTPUT], inputs, options)
        return np.asarray(found[0], dtype=np.float32).reshape(-1)

    def _check_scores(self) -> None:
        """Score some vectors, missing values among them: a check, and the warm-up."""
        parts = (np.zeros((2, self.width)), np.full((2, self.width), np.nan))
        probes = np.vstack([*parts, np.ones((4, self.width))])
        for probe in (probes, probes[:1]):
            rows = len(probe)
            sets = {n: np.ones((rows, rows, len(k)), "f4") for n, k in self.card.sets.items()}
            with probing() as options:
                scores = self.score(probe, sets, options)
        if not np.all(np.isfinite(scores)) or scores.min() < 0.0 or scores.max() > 1.0:
            raise ModelRefused("scores lie outside 0..1")


@contextmanager
def probing() -> Iterator[ort.RunOptions]:
    """Options for a first call of ONNX Runtime, which has to succeed within `CHECK_S`.

    A model that takes minutes for a probe would keep a core busy all the while, and no thread of
    Python's can be stopped from outside: the runtime ends the call itself.

    Raises:
        ModelRefused: it failed, or was ended.
    """
    options, ended = ort.RunOptions(), threading.Event()

    def end() -> None:
        ended.set()
        options.terminate = True

    alarm = threading.Timer(CHECK_S, end)
    alarm.daemon = True
    alarm.start()
    try:
        yield options
    except Exception as error:  # onnxruntime raises a class of its own for each kind
        why = f"hangs: no answer within {CHECK_S:.0f} s" if ended.is_set() else f"fails: {error}"
        raise ModelRefused(why) from error
    finally:
        alarm.cancel()


def open_session(data: bytes, threads: int = 1, prepared: bool = True) -> ort.InferenceSession:
    """An ONNX Runtime session. ModelRefused if the file is none.

    One thread by default: for one row a thread pool costs more than it shares out.

    Args:
        prepared: Fold constants, fuse and pack weights ahead of the first call. That can't be
            ended from outside and takes a made-up file minutes; unprepared, a file opens at once
            and does the same work within its calls, which can be. So a file that nobody knows is
            probed unprepared first.
    """
    options = ort.SessionOptions()
    if not prepared:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each kind
        raise ModelRefused(f"not a model: {str(error)[:200]}") from error


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


def _check_signature(
    session: ort.InferenceSession, width: int, sets: Mapping[str, tuple[str, ...]]
) -> None:
    inputs = {i.name: i for i in session.get_inputs()}
    if INPUT not in inputs or OUTPUT not in {o.name for o in session.get_outputs()}:
        raise ModelRefused(f"needs an input {INPUT!r} and an output {OUTPUT!r}")
    if inputs[INPUT].shape[-1] != width:
        raise ModelRefused(f"its card names {width} features, its input is {inputs[INPUT].shape}")
    if set(inputs) != {INPUT, *sets}:
        raise ModelRefused(f"its inputs are {sorted(inputs)}, its card names {[INPUT, *sets]}")
