"""What each label stands for, where declined payments have none.

A label of the control group (`review.control`) counts 1 / propensity times: it stands for
declined payments, whose outcome stays unknown. All others count once. Training, gate and quality
monitor read the weight beside the label.

Source: Horvitz and Thompson, "A Generalization of Sampling Without Replacement from a Finite
Universe", 1952.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE, NOT_SYNTHETIC
from services.platform.storage.joins import first_matches
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Booleans, Floats, Integers

WEIGHT = "weight"
# Columns of a decision that its label's weight follows from.
DECIDED_BY = ("control", "propensity")
_RANGE = 500_000


def with_decisions(lake: Lake, transactions: pa.Table, since: float = 0.0) -> pa.Table:
    """Transactions with the columns `DECIDED_BY` of their decision, null without one.

    Raises:
        OSError: S3 did not answer.
    """
    count = len(transactions)
    control, propensity = np.zeros(count, dtype=bool), np.ones(count)
    is_known = np.zeros((2, count), dtype=bool)
    for at, decided in first_matches(
        transactions["transaction_id"], _would_decline(lake, since), "transaction_id"
    ):
        is_known[0, at] = decided["control"].is_valid().to_numpy()
        control[at] = pc.fill_null(decided["control"], False).to_numpy()
        is_known[1, at] = True
        propensity[at] = decided["propensity"].to_numpy()
    return transactions.append_column(
        "control", pa.array(control, mask=~is_known[0])
    ).append_column("propensity", pa.array(propensity, mask=~is_known[1]))


def _would_decline(lake: Lake, since: float) -> Iterator[pa.Table]:
    """Decisions on payments that would be declined, a range of their stream at a time."""
    where = NOT_SYNTHETIC & (pc.field("propensity") < 1.0)
    columns = ["transaction_id", *DECIDED_BY]
    reader = SequenceReader(lake, DECISIONS_TABLE, columns, DECISION_SCHEMA, where, since)
    return reader.parts(_RANGE)


def label_weights(rows: pa.Table, known: Booleans, counted: Floats | None = None) -> Floats:
    """(N,) the weight of each row's label.

    Where most declined payments of a feed have labels too, as in a replayed file, each label stands
    for itself.

    Args:
        rows: N transactions or decisions whose dispute window has closed, with the columns
            `DECIDED_BY`; without them all count once.
        known: (N,) whether each has a label.
        counted: (N,) how many rows each stands for in a sample of them; None: itself.
    """
    if not set(DECIDED_BY) <= set(rows.column_names):
        return np.ones(len(rows))
    propensity = pc.fill_null(rows["propensity"], 1.0).to_numpy()
    control = pc.fill_null(rows["control"], False).to_numpy()
    declined = (propensity < 1.0) & ~control
    feed = _feeds(rows)
    counted = np.ones(len(rows)) if counted is None else counted
    known = declined & known
    labelled = np.bincount(feed[known], counted[known], minlength=len(rows))
    all_labelled = 2 * labelled > np.bincount(feed[declined], counted[declined], len(rows))
    return np.where(control & ~all_labelled[feed], 1.0 / np.maximum(propensity, 1e-9), 1.0)


def _feeds(rows: pa.Table) -> Integers:
    """(N,) the number of each row's feed."""
    if "feed" not in rows.column_names:
        return np.zeros(len(rows), dtype=np.int64)
    names = rows["feed"].cast(pa.string()).fill_null("").combine_chunks()
    found: Integers = names.dictionary_encode().indices.to_numpy()
    return found
