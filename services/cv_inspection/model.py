"""The model file of this design: class probabilities and a mask of each image.

Candidates export it; serving, shadow mode, the gate and the edge load it.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from services.cv_inspection.features.image import Box, Pixels
from services.cv_inspection.features.score_map import defect_levels, map_png, novelty_levels
from services.cv_inspection.features.tiling import cut, merge_masks, tile_boxes
from services.cv_inspection.problem import DESIGN
from services.platform.models.onnx import ModelCard, open_session, probe, read_card
from services.platform.models.refused import ModelRefused
from services.platform.types import Booleans, Floats32

log = logging.getLogger(__name__)

IMAGE, PROBABILITIES, MASK, NOVELTY = "image", "probabilities", "mask", "novelty"
# The novelty of each patch; older files have no such output.
PATCH_NOVELTY = "patch_novelty"
# Names of the card's limits: pixels of an image on one of the input, and the novelty above which a
# part that would pass goes to a person.
MAX_REDUCTION, MAX_NOVELTY = "max_reduction", "max_novelty"
# Images that are inspected at once: 8.5 MB each at 128 px, while the network runs.
_BATCH = 16


class ModelFailed(RuntimeError):
    """A model gave no answer for an image, or none that is a number."""


class ImageOutputs(NamedTuple):
    """A model's outputs for N inputs.

    Attributes:
        probabilities: (N, C) by class.
        masks: (N, 1, H, W) mask logits.
        novelty: (N,) distance from the good parts of training, in their standard deviations; 0 of a
            model without that output.
        patches: (N, 1, h, w) the same of each patch; h and w are 0 of a model without that output.
    """

    probabilities: Floats32
    masks: Floats32
    novelty: Floats32
    patches: Floats32


@dataclass(frozen=True)
class WholeImage:
    """A model's outputs for one image of any size, merged from its tiles.

    Attributes:
        probabilities: (C,) of the tile whose defect is most probable.
        mask: (height, width) in the image's own pixels, where the defect is.
        novelty: The largest of a tile.
        boxes: Where its T tiles are.
        logits: (T, H, W) the tiles' mask logits.
        patches: (T, h, w) the novelty of the tiles' patches; h and w are 0 where it is not known.
    """

    probabilities: Floats32
    mask: Booleans
    novelty: float
    boxes: list[Box]
    logits: Floats32
    patches: Floats32

    def map_png(self, max_novelty: float | None) -> bytes:
        """Its map as a PNG, see `features.score_map`.

        Args:
            max_novelty: The threshold of the channel of novelty; None leaves the channel out.
        """
        height, width = self.mask.shape
        defect = defect_levels(self.logits, self.boxes, width, height)
        if max_novelty is None:
            return map_png(defect, None)
        novelty = novelty_levels(self.patches, self.boxes, width, height, max_novelty)
        return map_png(defect, novelty)


class ImageModel:
    """An ONNX session and its card, checked and warm.

    Attributes:
        card: The model's card.
        size: (height, width) of the images it takes, pixels.
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

    def inspect(self, pixels: Pixels, options: ort.RunOptions | None = None) -> ImageOutputs:
        """The outputs for N > 0 images (N, H, W, 3) of the model's size, some at a time."""
        parts = [self._run(batch, options) for batch in _batches(pixels)]
        return ImageOutputs(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _run(self, pixels: Pixels, options: ort.RunOptions | None) -> ImageOutputs:
        values: Any = self._session.run(self._outputs, {IMAGE: pixels}, options)
        found = dict(zip(self._outputs, values, strict=True))
        count = len(pixels)
        return ImageOutputs(
            found[PROBABILITIES],
            found[MASK],
            found.get(NOVELTY, np.zeros(count, dtype=np.float32)),
            found.get(PATCH_NOVELTY, np.zeros((count, 1, 0, 0), dtype=np.float32)),
        )

    def inspect_image(self, image: Image.Image) -> WholeImage:
        """Inspect one RGB image of any size; one that is larger than the model sees, in tiles.

        Raises:
            ModelFailed: the model gives no answer for it, or one that is not a number.
        """
        boxes = tile_boxes(*image.size, self.size, self.max_reduction)
        try:
            tiles = self.inspect(cut(image, boxes, self.size))
        except Exception as error:  # ONNX Runtime's have no common base
            raise ModelFailed(f"{self.card.label} failed: {error}") from error
        if not all(np.isfinite(output).all() for output in tiles):
            raise ModelFailed(f"{self.card.label} gives outputs that are not finite")
        worst = tiles.probabilities[tiles.probabilities[:, 0].argmin()]
        logits, patches = tiles.masks[:, 0], tiles.patches[:, 0]
        mask = merge_masks(logits, boxes, *image.size)
        return WholeImage(worst, mask, float(tiles.novelty.max()), boxes, logits, patches)

    @property
    def max_reduction(self) -> float:
        """Pixels of an image that may fall on one of the input; infinite without a limit."""
        return self.card.limits.get(MAX_REDUCTION, math.inf)

    @property
    def max_novelty(self) -> float:
        """A part that would pass and is as novel goes to a person; infinite without a limit."""
        return self.card.limits.get(MAX_NOVELTY, math.inf)

    @property
    def map_novelty(self) -> float | None:
        """The threshold of a map's novelty; None if the file has no output or limit for it."""
        known = PATCH_NOVELTY in self._outputs and 0.0 < self.max_novelty < math.inf
        return self.max_novelty if known else None

    def score(
        self, vectors: npt.NDArray[Any], sets: Mapping[str, Floats32] | None = None
    ) -> Floats32:
        """Probability of any defect (N,) of N > 0 images (N, H, W, 3); `sets` is unused."""
        if vectors.shape[1:3] == self.size:
            batches = [self._run(batch, None) for batch in _batches(vectors)]
            good = np.concatenate([batch.probabilities[:, 0] for batch in batches])
        else:
            whole = (self.inspect_image(Image.fromarray(v)) for v in vectors)
            good = np.array([one.probabilities[0] for one in whole])
        return np.asarray(1.0 - good, dtype=np.float32)

    def _read_size(self) -> tuple[int, int]:
        inputs = {i.name: i for i in self._session.get_inputs()}
        outputs = {o.name for o in self._session.get_outputs()}
        self._outputs = [PROBABILITIES, MASK, *({NOVELTY, PATCH_NOVELTY} & outputs)]
        if set(inputs) != {IMAGE} or not outputs >= {PROBABILITIES, MASK}:
            raise ModelRefused(
                f"needs an input {IMAGE!r} and outputs {PROBABILITIES!r} and {MASK!r}"
            )
        shape = inputs[IMAGE].shape
        sides = shape[1:3]
        if len(shape) != 4 or shape[3] != 3 or not all(isinstance(side, int) for side in sides):
            raise ModelRefused(f"takes images of {shape}, not (N, H, W, 3)")
        return int(sides[0]), int(sides[1])

    def _check_outputs(self) -> None:
        """Inspect a black, a white and a grey image, to check the outputs and to warm up."""
        shape = (*self.size, 3)
        images = np.stack([np.full(shape, value, dtype=np.uint8) for value in (0, 255, 128)])
        with probe() as options:
            self.inspect(images[:1], options)
            probabilities, masks, novelty, patches = self.inspect(images, options)
        if probabilities.shape != (3, len(self.card.classes)):
            raise ModelRefused(
                f"its card names {len(self.card.classes)} classes, "
                f"its probabilities are {probabilities.shape}"
            )
        if masks.shape != (3, 1, *self.size):
            raise ModelRefused(f"its masks are {masks.shape}")
        if novelty.shape != (3,) or not np.isfinite(novelty).all():
            raise ModelRefused(f"its novelty is {novelty.shape}, or not finite")
        if patches.ndim != 4 or patches.shape[:2] != (3, 1) or not np.isfinite(patches).all():
            raise ModelRefused(f"its novelty of patches is {patches.shape}, or not finite")
        if not np.isfinite(masks).all():
            raise ModelRefused("its masks are not finite")
        whole = np.allclose(probabilities.sum(axis=1), 1.0, atol=1e-3)
        if not whole or not (np.abs(probabilities - 0.5) <= 0.501).all():
            raise ModelRefused("its outputs are not probabilities")


def _batches(pixels: Pixels) -> Iterator[Pixels]:
    """(N, H, W, 3) in parts of `_BATCH`."""
    for begin in range(0, len(pixels), _BATCH):
        yield pixels[begin : begin + _BATCH]


def read_model(data: bytes) -> ImageModel:
    """A checked and warm model of this design. ModelRefused if the file is not one."""
    model = ImageModel(data)
    if model.map_novelty is None:
        log.info("%s gives maps without novelty: train it anew for them", model.card.label)
    return model
