"""The newest decisions as the drift monitor sees them, for a report."""

import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.features.decisions import of_current_set, vectors_of
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE, NOT_DEGRADED
from services.fraud.monitoring.drift import monitored_columns
from services.platform.models.names import label_version
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Floats

_RANGE = 50_000


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
    last = _last(lake, count, wanted)
    if not len(last):
        raise ValueError("nothing was decided yet")
    model = last["model"][-1].as_py()
    return label_version(model), monitored_columns(vectors_of(last), last["score"].to_numpy())


def _last(lake: Lake, count: int, where: pc.Expression) -> pa.Table:
    """The newest decisions of the model that took the last one, read backwards range by range."""
    columns = ["model", "score", "features", "feature_set"]
    reader = SequenceReader(lake, DECISIONS_TABLE, columns, DECISION_SCHEMA, where)
    found, model = DECISION_SCHEMA.empty_table().select(["seq", *columns]), None
    for rows in reader.backwards(_RANGE):
        current = of_current_set(rows)
        if not len(current):
            continue
        model = model or current["model"][-1].as_py()
        found = pa.concat_tables([current.filter(pc.equal(current["model"], model)), found])
        if len(found) >= count:
            break
    return found[-count:]
