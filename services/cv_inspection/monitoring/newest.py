"""The newest inspections as the drift monitor sees them, for a report."""

import numpy as np
import pyarrow.compute as pc

from services.cv_inspection.ingestion.tables import INSPECTIONS, INSPECTIONS_TABLE
from services.cv_inspection.monitoring.drift import COLUMNS
from services.platform.models.names import label_version
from services.platform.storage.lake import Lake
from services.platform.types import Floats


def newest(lake: Lake, count: int, where: pc.Expression | None = None) -> tuple[int, Floats]:
    """The champion's version, and the monitored columns (N, F) of its newest inspections.

    The champion is the model of the newest inspection.

    Args:
        count: How many inspections at most.
        where: Which inspections count, all if None.

    Raises:
        ValueError: there are no inspections yet.
        OSError: S3 does not answer.
    """
    wanted = ["inspection_id", "model", *COLUMNS]
    rows = lake.read(INSPECTIONS_TABLE, wanted, where, schema=INSPECTIONS)
    if rows is None or not len(rows):
        raise ValueError("there are no inspections yet")
    model = str(rows["model"][-1].as_py())
    frame = rows.to_pandas().drop_duplicates("inspection_id")
    newest_rows = frame[frame["model"] == model].tail(count)
    return label_version(model), np.asarray(newest_rows[list(COLUMNS)], dtype=np.float64)
