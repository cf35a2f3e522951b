"""The newest decisions as the drift monitor sees them, for a report."""

import pyarrow.compute as pc

from services.fraud.features.decisions import of_current_set, read_decisions
from services.fraud.ingestion.tables import NOT_DEGRADED
from services.fraud.monitoring.drift import monitored_columns
from services.platform.models.names import label_version
from services.platform.storage.lake import Lake
from services.platform.types import Floats


def newest(lake: Lake, count: int, where: pc.Expression | None = None) -> tuple[int, Floats]:
    """The champion's version and the monitored columns of its newest decisions, (N, F).

    Args:
        lake: Where decisions are stored.
        count: How many at most.
        where: Which decisions count, all if None; the champion is the model that took the last one.

    Raises:
        ValueError: there are no decisions yet.
        OSError: S3 did not answer.
    """
    wanted = NOT_DEGRADED if where is None else NOT_DEGRADED & where
    found = read_decisions(lake, ["model", "score", "features"], wanted)
    rows = None if found is None else of_current_set(found)
    if rows is None or not len(rows):
        raise ValueError("nothing was decided yet")
    model = rows["model"][-1].as_py()
    last = rows.filter(pc.equal(rows["model"], model))[-count:]
    flat = pc.list_flatten(last["features"].combine_chunks())
    vectors = flat.to_numpy(zero_copy_only=False).reshape(len(last), -1)
    return label_version(model), monitored_columns(vectors, last["score"].to_numpy())
