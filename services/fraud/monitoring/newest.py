"""The newest decisions as the drift monitor sees them, for a report."""

import pyarrow.compute as pc

from features.spec import Floats
from services.fraud.ingestion.tables import DECISIONS_TABLE, WHOLE
from services.fraud.monitoring.drift import watched_columns
from services.platform.storage.lake import Lake


def newest(lake: Lake, count: int, where: pc.Expression | None = None) -> tuple[int, Floats]:
    """The champion's version and what the monitor watches of its newest decisions, (N, F).

    Args:
        where: Which decisions count, all if None; the champion is whoever took the last of them.

    Raises:
        ValueError: nothing was decided yet. OSError: S3 did not answer.
    """
    wanted = WHOLE if where is None else WHOLE & where
    rows = lake.read(DECISIONS_TABLE, ["model", "score", "features"], wanted)
    if rows is None or not len(rows):
        raise ValueError("nothing was decided yet")
    model = rows["model"][-1].as_py()
    last = rows.filter(pc.equal(rows["model"], model))[-count:]
    flat = pc.list_flatten(last["features"].combine_chunks())
    vectors = flat.to_numpy(zero_copy_only=False).reshape(len(last), -1)
    return int(model.rpartition(":")[2]), watched_columns(vectors, last["score"].to_numpy())
