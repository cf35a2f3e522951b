"""An inspection model as serving knows it: one ONNX file, one picture in, what and where out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from services.cv_inspection.features.image import scaled
from services.platform.models.onnx import (
    Floats32,
    ModelCard,
    ModelRefused,
    open_session,
    probing,
    read_card,
)

IMAGE, PROBABILITIES, MASK = "image", "probabilities", "mask"
DESIGN = "cv"


class ImageModel:
    """An ONNX session and its card, checked and warm.

    Attributes:
        size: Side of the square pictures it takes.
    """

    def __init__(self, data: bytes, threads: int = 1) -> None:
        """Load a file.

        Raises:
            ModelRefused: it is corrupt, of another design, or does not answer like a model.
        """
        self._session = open_session(data, threads, prepared=False)
        self.card: ModelCard = read_card(self._session, DESIGN)
        self.size = self._checked_size()
        self._check_answers()
        self._session = open_session(data, threads)
        self._check_answers()

    def inspect(
        self, pixels: npt.NDArray[np.uint8], options: ort.RunOptions | None = None
    ) -> tuple[Floats32, Floats32]:
        """((N, C) probabilities, (N, 1, S, S) mask logits) of N pictures (N, S, S, 3)."""
        found: Any = self._session.run([PROBABILITIES, MASK], {IMAGE: pixels}, options)
        return found[0], found[1]

    def score(
        self, vectors: npt.NDArray[Any], sets: Mapping[str, Floats32] | None = None
    ) -> Floats32:
        """Probability of any defect (N,) of N pictures (N, H, W, 3) of any size; no `sets`."""
        if vectors.shape[1:3] != (self.size, self.size):
            vectors = np.stack([scaled(Image.fromarray(v), self.size) for v in vectors])
        return np.asarray(1.0 - self.inspect(vectors)[0][:, 0], dtype=np.float32)

    def _checked_size(self) -> int:
        inputs = {i.name: i for i in self._session.get_inputs()}
        outputs = {o.name for o in self._session.get_outputs()}
        if set(inputs) != {IMAGE} or not outputs >= {PROBABILITIES, MASK}:
            raise ModelRefused(
                f"needs an input {IMAGE!r} and outputs {PROBABILITIES!r} and {MASK!r}"
            )
        shape = inputs[IMAGE].shape
        square = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]
        if not square or not isinstance(shape[1], int):
            raise ModelRefused(f"takes pictures of {shape}, not (N, S, S, 3)")
        return int(shape[1])

    def _check_answers(self) -> None:
        """Look at a black, a white and a grey picture: a check, and the warm-up."""
        shape = (self.size, self.size, 3)
        probe = np.stack([np.full(shape, value, dtype=np.uint8) for value in (0, 255, 128)])
        with probing() as options:
            self.inspect(probe[:1], options)
            kinds, masks = self.inspect(probe, options)
        if kinds.shape != (3, len(self.card.classes)):
            raise ModelRefused(
                f"its card names {len(self.card.classes)} classes, it answers {kinds.shape}"
            )
        if masks.shape != (3, 1, self.size, self.size):
            raise ModelRefused(f"its masks are {masks.shape}")
        if not np.isfinite(masks).all() or not np.allclose(kinds.sum(axis=1), 1.0, atol=1e-3):
            raise ModelRefused("its answers are no probabilities")


def read_model(data: bytes) -> ImageModel:
    """A model of this design, checked and warm. ModelRefused if the file is none."""
    return ImageModel(data)
