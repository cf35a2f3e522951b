"""What each label stands for, where declined payments have none.

A label of the control group (`review.control`) counts 1 / propensity times: it stands for
declined payments, whose outcome stays unknown. All others count once. Training, gate and quality
monitor read the weight beside the label.

Source: Horvitz and Thompson, "A Generalization of Sampling Without Replacement from a Finite
Universe", 1952.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE, NOT_SYNTHETIC
from services.platform.storage.lake import Lake
from services.platform.types import Booleans, Floats, Integers

WEIGHT = "weight"
# Columns of a decision that its label's weight follows from.
DECIDED_BY = ("control", "propensity")


def with_decisions(lake: Lake, transactions: pa.Table, since: float = 0.0) -> pa.Table:
    """Transactions with the columns `DECIDED_BY` of their decision, null without one.

    Raises:
        OSError: S3 did not answer.
    """
    would_decline = NOT_SYNTHETIC & (pc.field("propensity") < 1.0)
    columns = ["transaction_id", *DECIDED_BY]
    decided = lake.read(DECISIONS_TABLE, columns, would_decline, since, DECISION_SCHEMA)
    if decided is None:
        decided = DECISION_SCHEMA.empty_table()
    where = pc.index_in(transactions["transaction_id"], decided["transaction_id"])
    for name in DECIDED_BY:
        transactions = transactions.append_column(name, decided[name].take(where))
    return transactions


def label_weights(rows: pa.Table, known: Booleans) -> Floats:
    """(N,) the weight of each row's label.

    Where most declined payments of a feed have labels too, as in a replayed file, each label stands
    for itself.

    Args:
        rows: N transactions or decisions whose dispute window has closed, with the columns
            `DECIDED_BY`; without them all count once.
        known: (N,) whether each has a label.
    """
    if not set(DECIDED_BY) <= set(rows.column_names):
        return np.ones(len(rows))
    propensity = pc.fill_null(rows["propensity"], 1.0).to_numpy()
    control = pc.fill_null(rows["control"], False).to_numpy()
    declined = (propensity < 1.0) & ~control
    feed = _feeds(rows)
    labelled = np.bincount(feed[declined & known], minlength=len(rows))
    all_labelled = 2 * labelled > np.bincount(feed[declined], minlength=len(rows))
    return np.where(control & ~all_labelled[feed], 1.0 / np.maximum(propensity, 1e-9), 1.0)


def _feeds(rows: pa.Table) -> Integers:
    """(N,) the number of each row's feed."""
    if "feed" not in rows.column_names:
        return np.zeros(len(rows), dtype=np.int64)
    names = rows["feed"].cast(pa.string()).fill_null("").combine_chunks()
    found: Integers = names.dictionary_encode().indices.to_numpy()
    return found
