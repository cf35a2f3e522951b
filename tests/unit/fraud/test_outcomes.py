"""The join of transactions and decisions with their labels."""

import numpy as np
import pyarrow as pa
import pytest

from services.fraud.ingestion.outcomes import with_outcomes
from services.fraud.ingestion.tables import LABELS_TABLE
from services.fraud.retraining.plan import REQUIRED_LABELS
from services.platform.retraining.spec import TooFewLabels
from tests.unit.fraud.test_watermark import MemoryLake

ROWS = pa.table({"transaction_id": ["t0", "t1", "t2", "t0"]})


def joined(*labels):
    ids, fraud = zip(*labels, strict=True)
    table = pa.table({"seq": range(1, len(ids) + 1), "transaction_id": ids, "fraud": fraud})
    return with_outcomes(MemoryLake({LABELS_TABLE: table}), ROWS, np.ones(len(ROWS)))


def test_rows_without_a_label_are_left_out():
    rows, known, share = joined(("t0", False), ("t2", True), ("another", False))
    assert rows["transaction_id"].to_pylist() == ["t0", "t2", "t0"]
    assert rows["fraud"].to_pylist() == [False, True, False]
    assert known.tolist() == [True, False, True, True]
    assert share == pytest.approx(1 / 3)


def test_the_first_label_counts_and_a_repeated_row_keeps_its_outcome():
    rows, _, _ = joined(("t0", True), ("t0", False))
    assert rows["transaction_id"].to_pylist() == ["t0", "t0"]
    assert rows["fraud"].to_pylist() == [True, True]


def test_too_few_labels_say_how_many_are_needed_and_what_to_do():
    rows, _, _ = joined(("t1", True))
    with pytest.raises(TooFewLabels, match=r"^1 labelled decisions with 1 frauds .*5,000"):
        REQUIRED_LABELS.check(rows["fraud"].to_numpy(), "since", "to train on")
