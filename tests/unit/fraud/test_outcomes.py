"""The join of transactions and decisions with their labels."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from services.fraud.ingestion.outcomes import settle
from services.fraud.ingestion.watermark import MIN_SUPPORT
from services.fraud.problem import DISPUTE_WINDOW_DAYS
from services.fraud.retraining.plan import REQUIRED_LABELS
from services.platform.retraining.spec import TooFewLabels

BEGIN = datetime(2022, 5, 1, tzinfo=UTC)
# An hour apart: the watermark lies half a day, fifty at least, behind the newest.
HOURS = (DISPUTE_WINDOW_DAYS + 4) * 24
IDS = [f"t{hour}" for hour in range(HOURS)]
ROWS = pa.table(
    {
        "transaction_id": IDS,
        "event_time": pa.array(
            [BEGIN + timedelta(hours=hour) for hour in range(HOURS)], pa.timestamp("us", "UTC")
        ),
    }
)
CLOSED = HOURS - MIN_SUPPORT - DISPUTE_WINDOW_DAYS * 24


def labels(**fraud):
    return pa.table({"transaction_id": list(fraud), "fraud": list(fraud.values())})


def test_a_transaction_counts_once_its_dispute_window_has_closed():
    found = settle(ROWS, labels(**dict.fromkeys(IDS, True))).rows
    assert found["transaction_id"].to_pylist() == IDS[:CLOSED]


def test_rows_without_a_label_and_old_rows_are_left_out():
    found = settle(ROWS, labels(t0=False, t2=True), since=BEGIN.timestamp()).rows
    assert found["transaction_id"].to_pylist() == ["t2"]
    assert found["fraud"].to_pylist() == [True]


def test_the_first_label_counts_and_a_repeated_decision_keeps_its_outcome():
    twice = pa.concat_tables([ROWS, ROWS.slice(0, 1)])
    repeated = pa.table({"transaction_id": ["t0", "t0"], "fraud": [True, False]})
    found = settle(twice, repeated).rows
    assert found["transaction_id"].to_pylist() == ["t0", "t0"]
    assert found["fraud"].to_pylist() == [True, True]


def test_too_few_labels_say_how_many_are_needed_and_what_to_do():
    found = settle(ROWS, labels(t0=True)).rows["fraud"].to_numpy()
    with pytest.raises(TooFewLabels, match=r"^1 labelled decisions with 1 frauds .*5,000"):
        REQUIRED_LABELS.check(found, "since", "to train on")
