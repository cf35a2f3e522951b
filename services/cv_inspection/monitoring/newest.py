"""The newest inspections as the drift monitor sees them, for a report."""

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from services.cv_inspection.ingestion.tables import INSPECTIONS, INSPECTIONS_TABLE
from services.cv_inspection.monitoring.drift import COLUMNS
from services.platform.models.names import label_version
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Floats

_RANGE = 50_000


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
    reader = SequenceReader(lake, INSPECTIONS_TABLE, wanted, INSPECTIONS, where)
    found, model = pd.DataFrame(), ""
    for part in reader.backwards(_RANGE):
        model = model or str(part["model"][-1])
        rows = part.filter(pc.equal(part["model"], model)).to_pandas()
        found = pd.concat([rows, found]).drop_duplicates("inspection_id")
        if len(found) >= count:
            break
    if not model:
        raise ValueError("there are no inspections yet")
    return label_version(model), np.asarray(found[list(COLUMNS)].tail(count), dtype=np.float64)
