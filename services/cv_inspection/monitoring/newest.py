"""The newest inspections as the drift monitor sees them, for a report."""

import numpy as np
import pyarrow.compute as pc

from services.cv_inspection.ingestion.lake_writer import INSPECTIONS_TABLE
from services.cv_inspection.monitoring.drift import COLUMNS
from services.platform.evaluation.cost import Floats
from services.platform.storage.lake import Lake


def newest(lake: Lake, count: int, where: pc.Expression | None = None) -> tuple[int, Floats]:
    """The champion's version and what the monitor watches of its newest inspections, (N, F).

    Args:
        where: Which inspections count, all if None; the champion is whoever did the last of them.

    Raises:
        ValueError: nothing was inspected yet. OSError: S3 did not answer.
    """
    rows = lake.read(INSPECTIONS_TABLE, ["inspection_id", "model", *COLUMNS], where)
    if rows is None or not len(rows):
        raise ValueError("nothing was inspected yet")
    model = str(rows["model"][-1].as_py())
    frame = rows.to_pandas().drop_duplicates("inspection_id")
    last = frame[frame["model"] == model].tail(count)
    return int(model.rpartition(":")[2]), np.asarray(last[list(COLUMNS)], dtype=np.float64)
