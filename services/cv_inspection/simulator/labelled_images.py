"""Labelled images of the simulated camera, for training, thresholds and evaluation."""

from PIL import Image

from services.cv_inspection.features.image import ImageSize
from services.cv_inspection.features.labelled_images import (
    ImageArrays,
    ImageHistory,
    ImageSplit,
    LabelledImages,
    class_index,
)
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.simulator.camera import DEFECT_SHARE, Camera
from services.cv_inspection.simulator.drift import CameraDrift
from services.platform.progress import ProgressBar, ProgressCallback

TRAIN_IMAGES, VALIDATION_IMAGES, HELD_OUT_IMAGES = 900, 900, 2_000
# A line keeps its rejects: half of the images that it kept show a defect.
TRAIN_DEFECT_SHARE = 0.5
_VALIDATION_FROM, _HELD_OUT_FROM = 500_000, 600_000


def simulated_images(
    seed: int,
    first: int,
    count: int,
    defect_share: float,
    size: ImageSize,
    step: ProgressCallback,
    drift: CameraDrift | None = None,
) -> LabelledImages:
    """Images of the simulated camera, with their ground truth.

    Args:
        first: Number of the first image.
        count: How many images.
        defect_share: Share of them with a defect.
        size: What they are resized to.
        drift: Of the camera; none if None.
    """
    camera = Camera(seed, defect_share, drift)
    arrays = ImageArrays(size)
    lots: dict[str, int] = {}
    for i in range(count):
        shot = camera.shot(first + i)
        # Through a JPEG file, as images arrive from the store: compression changes them.
        label = class_index(shot.label, CLASSES)
        unit = lots.setdefault(f"{shot.line}/{shot.station}/{shot.lot}", len(lots))
        arrays.add(decode(shot.jpeg()), Image.fromarray(shot.mask), label, unit)
        step(i + 1, count)
    return arrays.labelled()


def simulated_split(
    seed: int, size: ImageSize, max_reduction: float, bar: ProgressBar
) -> ImageSplit:
    """Training images, half of them rejects, and validation images of the line's distribution.

    `max_reduction` is not used: the camera's images are small.
    """
    with bar("simulating training images") as step:
        train = rehearsal(seed, TRAIN_IMAGES, size, step)
    with bar("simulating validation images") as step:
        validation = simulated_images(
            seed, _VALIDATION_FROM, VALIDATION_IMAGES, DEFECT_SHARE, size, step
        )
    return ImageSplit(train, validation, CLASSES)


def rehearsal(seed: int, count: int, size: ImageSize, step: ProgressCallback) -> LabelledImages:
    """The first images that `simulated_split` trains on."""
    return simulated_images(seed, 0, count, TRAIN_DEFECT_SHARE, size, step)


def simulated_held_out(seed: int, size: ImageSize, step: ProgressCallback) -> LabelledImages:
    """Images of the line's distribution that are in no split."""
    return simulated_images(seed, _HELD_OUT_FROM, HELD_OUT_IMAGES, DEFECT_SHARE, size, step)


HISTORY = ImageHistory(simulated_split, rehearsal)
