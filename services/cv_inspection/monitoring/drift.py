"""The drift monitor of this design: the pictures' own figures, and the model's answer.

A window is a count of pictures: a line that stands still shows nothing new. Each station is also
held to its own past, so that an alarm names the one whose lens to clean.
"""

import numpy as np

from monitoring import worker as service
from monitoring.drift_monitor import Windows
from monitoring.reference import Reference
from monitoring.worker import Observed, Watched
from services.cv_inspection.features.image import QUALITY
from services.cv_inspection.features.labelled_images import Pictures
from services.cv_inspection.ingestion.events import DECISIONS_STREAM, parse_inspection
from services.cv_inspection.serving.model import DESIGN
from services.platform.evaluation.cost import Floats
from services.platform.runtime.worker import run_worker
from services.platform.settings import settings
from services.platform.streaming.consumer import Delivered

COLUMNS = (*QUALITY, "defect")
WINDOW = 200
_CLEAN_WINDOWS = 100


def windows() -> Windows[Observed]:
    """An empty window."""
    return Windows(0.0, WINDOW, WINDOW)


def observe(message: Delivered) -> Observed | None:
    """One inspection; None for one that can't be read."""
    try:
        event = parse_inspection(message.data)
    except ValueError:
        return None  # the lake writer puts it aside, with its reason
    figures = [getattr(event.quality, name) for name in QUALITY]
    values = np.array([*figures, event.defect])
    version = int(event.model.rpartition(":")[2])
    station = f"{event.place.line}/{event.place.station}"
    return Observed(event.at.timestamp(), version, event.model, values, station)


def reference(pictures: Pictures, score: Floats, seed: int = 0) -> Reference:
    """What is normal, by pictures as they come.

    Clean windows are drawn from the same pictures that the reference is made of. A true window
    would differ from it by its own chance and by the reference's, so the drawn ones are smaller:
    1 / n + 1 / N of the variance, as in a test of two samples.
    """
    rows = np.column_stack([pictures.quality, score])
    size = round(WINDOW * len(rows) / (WINDOW + len(rows)))
    rng = np.random.default_rng(seed)
    drawn = [rows[rng.integers(0, len(rows), size)] for _ in range(_CLEAN_WINDOWS)]
    return Reference.of(COLUMNS, rows, drawn, seed)


def main() -> None:
    """Start the monitor."""
    # Not for training, which asks this file for a reference alone.
    from services.cv_inspection.monitoring.quality import BILLS

    config = settings()
    watched = Watched(DESIGN, DECISIONS_STREAM, observe, windows, BILLS)
    run_worker(config, config.metrics_port + 8, lambda: service.serve(config, watched))


if __name__ == "__main__":
    main()
