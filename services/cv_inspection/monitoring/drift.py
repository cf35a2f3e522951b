"""The drift monitor of this design: image quality and P(defect).

A window is a number of images, because a line that stands still produces no data. Each station is
also compared with its own past, so that an alert names the lens to clean.
"""

import numpy as np

from monitoring import worker as service
from monitoring.reference import Reference
from monitoring.window_cutter import WindowCutter
from monitoring.window_watcher import MonitorSpec, Observation
from services.cv_inspection.features.image import QUALITY_MEASURES
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.ingestion.events import (
    DECISIONS_STREAM,
    InspectionEvent,
    parse_inspection,
)
from services.cv_inspection.problem import DESIGN
from services.platform.evaluation.sampling import repeated
from services.platform.models.names import label_version
from services.platform.settings import Settings
from services.platform.streaming.consumer import Message
from services.platform.types import Floats

# New columns go first: a reference that was stored before them compares the last ones.
COLUMNS = ("novelty", *QUALITY_MEASURES, "defect")
# Too many novel parts are a kind of defect without labels.
RISING = ("novelty",)
WINDOW_IMAGES = 200
_CLEAN_WINDOWS = 100
# Newest inspections whose repetition is recognised: 20 MB, seven hours at four images a second.
_MAX_KNOWN = 100_000


def new_windows() -> WindowCutter[Observation]:
    """An empty window of `WINDOW_IMAGES` images, without a limit of time."""
    return WindowCutter(0.0, WINDOW_IMAGES, WINDOW_IMAGES)


class Observer:
    """Reads inspections, each once: the stream drops a repeated one only for two minutes."""

    def __init__(self) -> None:
        """Know none yet."""
        # By id, the sequence of its first message, which is read again if its batch is retried.
        self._first: dict[str, int] = {}

    def __call__(self, message: Message) -> Observation | None:
        """The values of one inspection; None for a repeated one and one that can't be parsed."""
        try:
            event = parse_inspection(message.data)
        except ValueError:
            return None  # the lake writer dead-letters it, with a reason
        if self._first.setdefault(event.inspection_id, message.seq) != message.seq:
            return None
        if len(self._first) > _MAX_KNOWN:
            del self._first[next(iter(self._first))]
        return _observation(event)


def _observation(event: InspectionEvent) -> Observation:
    quality = [getattr(event.quality, name) for name in QUALITY_MEASURES]
    values = np.array([event.novelty, *quality, event.defect])
    version = label_version(event.model)
    station = f"{event.place.line}/{event.place.station}"
    return Observation(
        event.at.timestamp(), version, event.model, values, station, subject=event.key or ""
    )


def reference(images: LabelledImages, score: Floats, novelty: Floats, seed: int = 0) -> Reference:
    """The monitor's reference, from images of the line's own distribution.

    Clean windows are drawn from the images that the reference is made of. A true window would
    differ from it by the sampling error of both, so the drawn windows are smaller: the variance is
    1 / n + 1 / N, as in a test of two samples. Where images have weights, N is the effective
    number, (sum of weights)^2 / sum of squares (Kish, "Survey Sampling", 1965).

    Args:
        images: N images with the line's share of defects.
        score: (N,) P(defect).
        novelty: (N,) distance from good parts.
    """
    weight = images.counted
    rows = np.column_stack([novelty, images.quality, score])[repeated(weight)]
    effective = weight.sum() ** 2 / np.square(weight).sum()
    size = round(WINDOW_IMAGES * effective / (WINDOW_IMAGES + effective))
    rng = np.random.default_rng(seed)
    drawn = [rows[rng.integers(0, len(rows), size)] for _ in range(_CLEAN_WINDOWS)]
    return Reference.of(COLUMNS, rows, drawn, seed)


async def main(config: Settings) -> None:
    """Run until cancelled."""
    # Imported here because training, which imports this module for the reference, needs neither.
    from services.cv_inspection.monitoring.quality import QUALITY_SPEC

    await service.serve(
        config,
        MonitorSpec(DESIGN, DECISIONS_STREAM, Observer(), new_windows, QUALITY_SPEC, RISING),
    )
