"""The model file of this design: class probabilities and a mask of each image.

Candidates export it; serving, shadow mode, the gate and the edge load it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from services.cv_inspection.features.image import resize
from services.cv_inspection.problem import DESIGN
from services.platform.models.onnx import ModelCard, ModelRefused, open_session, probe, read_card
from services.platform.types import Floats32

IMAGE, PROBABILITIES, MASK = "image", "probabilities", "mask"


class ImageModel:
    """An ONNX session and its card, checked and warm.

    Attributes:
        card: The model's card.
        size: Side of the square images it takes, pixels.
    """

    def __init__(self, data: bytes, threads: int = 1) -> None:
        """Load a file.

        Raises:
            ModelRefused: it is corrupt, of another design, or its outputs are invalid.
        """
        self._session = open_session(data, threads, optimised=False)
        self.card: ModelCard = read_card(self._session, DESIGN)
        self.size = self._read_size()
        self._check_outputs()
        self._session = open_session(data, threads)
        self._check_outputs()

    def inspect(
        self, pixels: npt.NDArray[np.uint8], options: ort.RunOptions | None = None
    ) -> tuple[Floats32, Floats32]:
        """((N, C) probabilities, (N, 1, S, S) mask logits) of N images (N, S, S, 3)."""
        outputs: Any = self._session.run([PROBABILITIES, MASK], {IMAGE: pixels}, options)
        return outputs[0], outputs[1]

    def score(
        self, vectors: npt.NDArray[Any], sets: Mapping[str, Floats32] | None = None
    ) -> Floats32:
        """Probability of any defect (N,) of N images (N, H, W, 3) of any size; `sets` is unused."""
        if vectors.shape[1:3] != (self.size, self.size):
            vectors = np.stack([resize(Image.fromarray(v), self.size) for v in vectors])
        return np.asarray(1.0 - self.inspect(vectors)[0][:, 0], dtype=np.float32)

    def _read_size(self) -> int:
        inputs = {i.name: i for i in self._session.get_inputs()}
        outputs = {o.name for o in self._session.get_outputs()}
        if set(inputs) != {IMAGE} or not outputs >= {PROBABILITIES, MASK}:
            raise ModelRefused(
                f"needs an input {IMAGE!r} and outputs {PROBABILITIES!r} and {MASK!r}"
            )
        shape = inputs[IMAGE].shape
        square = len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2]
        if not square or not isinstance(shape[1], int):
            raise ModelRefused(f"takes images of {shape}, not (N, S, S, 3)")
        return int(shape[1])

    def _check_outputs(self) -> None:
        """Inspect a black, a white and a grey image, to check the outputs and to warm up."""
        shape = (self.size, self.size, 3)
        images = np.stack([np.full(shape, value, dtype=np.uint8) for value in (0, 255, 128)])
        with probe() as options:
            self.inspect(images[:1], options)
            probabilities, masks = self.inspect(images, options)
        if probabilities.shape != (3, len(self.card.classes)):
            raise ModelRefused(
                f"its card names {len(self.card.classes)} classes, "
                f"its probabilities are {probabilities.shape}"
            )
        if masks.shape != (3, 1, self.size, self.size):
            raise ModelRefused(f"its masks are {masks.shape}")
        if not np.isfinite(masks).all() or not np.allclose(
            probabilities.sum(axis=1), 1.0, atol=1e-3
        ):
            raise ModelRefused("its outputs are not probabilities")


def read_model(data: bytes) -> ImageModel:
    """A checked and warm model of this design. ModelRefused if the file is not one."""
    return ImageModel(data)
