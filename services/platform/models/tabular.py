"""A model of feature vectors and sets, served by ONNX Runtime."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from services.platform.models.onnx import INPUT, OUTPUT, open_session, probe, read_card
from services.platform.models.refused import ModelRefused
from services.platform.types import Floats, Floats32, Integers

# Rows of one call. DeepSets takes 57 KB a row if one cart of them has 200 items (2026-11-30), so
# 500,000 rows in one call took 28 GB; these take 60 MB, at the same speed.
MAX_BATCH = 1_024


class TabularModel:
    """An ONNX session and its card, checked and warmed up.

    Attributes:
        card: The file's model card.
        columns: (F,) positions of its features among the available ones.
        metadata: The file's metadata, with its attachments.
        width: Leading columns of the vectors it reads.
    """

    def __init__(
        self,
        data: bytes,
        design: str,
        available: tuple[str, ...],
        available_sets: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Load a file.

        Args:
            data: The file.
            design: Design whose models are accepted.
            available: Names of the features that can be computed here.
            available_sets: By name of a set that can be computed here, names along its last axis.

        Raises:
            ModelRefused: it is corrupt, of another design, or needs an unavailable input.
        """
        # Unoptimised first: a file that hangs is then terminated, see `open_session`.
        self._session = open_session(data, optimised=False)
        self.card = read_card(self._session, design)
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        missing = [name for name in self.card.features if name not in available]
        if missing:
            raise ModelRefused(f"needs unknown features: {', '.join(missing[:5])}")
        for name, names in self.card.sets.items():
            if (available_sets or {}).get(name) != names:
                raise ModelRefused(f"needs an unknown set: {name} of {', '.join(names)}")
        self.columns = np.array([available.index(name) for name in self.card.features])
        _check_signature(self._session, len(self.columns), self.card.sets)
        self.width = int(self.columns.max()) + 1
        self._selection = _selection(self.columns)
        self._check_scores()
        self._session = open_session(data)
        self._check_scores()

    def score(
        self,
        vectors: Floats,
        sets: Mapping[str, Floats32] | None = None,
        options: ort.RunOptions | None = None,
    ) -> Floats32:
        """Scores (N,) in 0..1 of N vectors (N, len(available)) and the sets the card names.

        The runtime takes `MAX_BATCH` rows at a time, with sets as long as the longest of them.
        """
        named = {name: (sets or {})[name] for name in self.card.sets}
        if len(vectors) <= MAX_BATCH:
            return self._run(vectors, named, options)
        parts = [slice(i, i + MAX_BATCH) for i in range(0, len(vectors), MAX_BATCH)]
        return np.concatenate(
            [
                self._run(vectors[p], {k: without_padding(s[p]) for k, s in named.items()}, options)
                for p in parts
            ]
        )

    def _run(
        self, vectors: Floats, sets: Mapping[str, Floats32], options: ort.RunOptions | None
    ) -> Floats32:
        inputs = {INPUT: vectors[:, self._selection].astype(np.float32), **sets}
        outputs: Any = self._session.run([OUTPUT], inputs, options)
        return np.asarray(outputs[0], dtype=np.float32).reshape(-1)

    def _check_scores(self) -> None:
        """Score probe vectors, some with missing values: a check and the warm-up."""
        parts = (np.zeros((2, self.width)), np.full((2, self.width), np.nan))
        probes = np.vstack([*parts, np.ones((4, self.width))])
        for rows in (probes, probes[:1]):
            n = len(rows)
            sets = {name: np.ones((n, n, len(k)), "f4") for name, k in self.card.sets.items()}
            with probe() as options:
                scores = self.score(rows, sets, options)
        if not np.all(np.isfinite(scores)) or scores.min() < 0.0 or scores.max() > 1.0:
            raise ModelRefused("scores lie outside 0..1")


def pad_sets(sets: Sequence[Floats32]) -> Floats32:
    """Stack N sets (1, m, K) into (N, M, K), padded by items whose first value is -1.

    >>> pad_sets([np.ones((1, 2, 1)), np.ones((1, 1, 1))])[:, :, 0].tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    longest = max(one.shape[1] for one in sets)
    out = np.zeros((len(sets), longest, sets[0].shape[2]), dtype=np.float32)
    out[:, :, 0] = -1.0
    for row, one in zip(out, sets, strict=True):
        row[: one.shape[1]] = one[0]
    return out


def without_padding(sets: Floats32) -> Floats32:
    """N sets (N, M, K) of `pad_sets`, only as long as the longest of them; at least one item.

    >>> without_padding(np.array([[[1.0], [-1.0]], [[-1.0], [-1.0]]]))[:, :, 0].tolist()
    [[1.0], [-1.0]]
    """
    filled = np.flatnonzero((sets[:, :, 0] >= 0).any(axis=0))
    return sets[:, : int(filled[-1]) + 1 if len(filled) else 1]


def _selection(columns: Integers) -> Any:
    """An index for the columns: a slice, which copies nothing, where they are contiguous."""
    first, last = int(columns[0]), int(columns[-1]) + 1
    return slice(first, last) if np.array_equal(columns, np.arange(first, last)) else columns


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
