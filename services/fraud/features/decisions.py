"""Logged decisions of the present feature set; those of another are left out and counted.

A vector is a list of numbers: under another set its positions have other meanings.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.features.states import FEATURE_SET, FIRST_SET
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE
from services.platform.storage.lake import Lake
from services.platform.telemetry import count_left_out
from services.platform.types import Floats


def is_current(feature_set: str | None) -> bool:
    """Whether a logged decision is of the present set; one that is not is counted.

    Args:
        feature_set: The decision's hash; None in one that was logged before decisions had it.
    """
    if (feature_set or FIRST_SET) == FEATURE_SET.hash:
        return True
    count_left_out("decision")
    return False


def read_decisions(
    lake: Lake,
    columns: list[str] | None = None,
    where: pc.Expression | None = None,
    since: float = 0.0,
) -> pa.Table | None:
    """Logged decisions of any set, with their `feature_set`. Arguments as of `Lake.read`."""
    wanted = None if columns is None else [*columns, "feature_set"]
    # With the schema: files from before the column have nulls there.
    return lake.read(DECISIONS_TABLE, wanted, where, since, DECISION_SCHEMA)


def of_current_set(decisions: pa.Table) -> pa.Table:
    """The decisions of the present set; the others are counted."""
    known = pc.fill_null(decisions["feature_set"], FIRST_SET)
    found = decisions.filter(pc.equal(known, FEATURE_SET.hash))
    if len(found) < len(decisions):
        count_left_out("decision", len(decisions) - len(found))
    return found


def vectors_of(decisions: pa.Table) -> Floats:
    """(N, F) the logged vectors of N decisions."""
    flat = pc.list_flatten(decisions["features"]).to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float64).reshape(len(decisions), -1)
