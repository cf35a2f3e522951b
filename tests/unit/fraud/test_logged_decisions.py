"""The back-test reads logged decisions in ranges, and the newest of those that are too many."""

import numpy as np
import pyarrow as pa
import pytest

from services.fraud.features.decisions import vectors_of
from services.fraud.ingestion.tables import DECISIONS_TABLE, LABELS_TABLE
from services.fraud.problem import CostModel
from services.fraud.review import what_if
from services.fraud.review.policy import usual_costs
from services.fraud.rules import logged
from services.fraud.rules.logged import decided_transactions, times_us
from tests.unit.fraud.test_labelled import RangedLake
from tests.unit.fraud.test_watermark import EXTRA, MemoryLake, world
from tests.unit.fraud.whole_tables import settle


@pytest.fixture
def lake(monkeypatch):
    monkeypatch.setattr(logged, "_RANGE", 1_000)
    return RangedLake(world(EXTRA["three rows two months ahead"]).tables)


def test_ranges_give_what_the_whole_tables_give(lake):
    found = decided_transactions(lake, usual_costs)
    whole = settle(lake.tables[DECISIONS_TABLE], lake.tables[LABELS_TABLE]).rows
    assert len(found) == len(whole) > 3_000
    assert np.array_equal(found.time_us, times_us(whole))
    assert np.array_equal(found.vectors, vectors_of(whole))
    assert np.array_equal(found.fraud, whole["fraud"].to_numpy())
    assert found.costs == usual_costs(whole["costs"])
    assert np.array_equal(found.weight, whole["weight"].to_numpy())
    assert list(found.texts["customer_id"]) == whole["customer_id"].to_pylist()


def test_of_too_many_the_newest_are_read(lake):
    everything = decided_transactions(lake)
    found = decided_transactions(lake, most=500)
    assert np.array_equal(found.time_us, everything.time_us[-len(found) :])
    assert 400 < len(found) <= 500


def test_costs_are_compared_on_the_newest_decisions_a_part_at_a_time(lake, monkeypatch):
    rows = lake.tables[DECISIONS_TABLE].sort_by("seq")
    monkeypatch.setattr(what_if, "NEWEST", 700)
    found = what_if.newest_decisions(lake)
    assert found["seq"].to_pylist() == rows["seq"].to_pylist()[-700:]
    costs = CostModel(), CostModel(opex=900)
    whole = what_if._compare(found, *costs)
    monkeypatch.setattr(what_if, "_PART", 100)
    assert what_if._compare(found, *costs) == pytest.approx(whole)
    assert whole[0] == 700
    assert whole[4] == 0


def test_it_says_what_is_missing(lake):
    nothing = RangedLake(lake.tables)
    nothing.files = lambda *_: []
    with pytest.raises(ValueError, match="no logged decisions"):
        decided_transactions(nothing)
    rows = lake.tables[DECISIONS_TABLE]
    other = rows.set_column(
        rows.schema.get_field_index("feature_set"), "feature_set", pa.array(["other"] * len(rows))
    )
    with pytest.raises(ValueError, match="of another feature set"):
        decided_transactions(MemoryLake({**lake.tables, DECISIONS_TABLE: other}))


def test_before_any_outcome_is_known_the_newest_are_read_without_one(lake):
    labels = lake.tables[LABELS_TABLE].slice(0, 0)
    found = decided_transactions(MemoryLake({**lake.tables, LABELS_TABLE: labels}), most=700)
    assert (found.fraud, found.weight, len(found)) == (None, None, 700)
    assert np.array_equal(found.time_us, times_us(lake.tables[DECISIONS_TABLE])[-700:])
    few = lake.tables[DECISIONS_TABLE].slice(0, 10)
    found = decided_transactions(MemoryLake({**lake.tables, DECISIONS_TABLE: few}))
    assert (found.fraud, len(found)) == (None, 10)
