"""Step 6, monitoring: drift of scores and of the pictures themselves; verdicts when they come.

A lens that slips out of focus makes the model blind and sure of itself: its scores alone may not
move. So the pictures' own figures (brightness, contrast, sharpness, clipping) are watched beside
the score, and the inspector itself sends what shows too little to a person. An alarm names the
station that moved most from its own past. Verdicts then tell what escaped. Why not watch
embeddings? They see more and explain nothing; "sharpness drifted, most at line-b/station-2" is what
somebody can act on.

The process is `monitor.py`; shadow mode is `shadow.py`.
"""

import numpy as np
import pyarrow.compute as pc

from services.cv_inspection.lake_writer import INSPECTIONS_TABLE
from services.cv_inspection.monitor import COLUMNS
from services.skeleton.kpi import Floats
from services.skeleton.lake import Lake


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
