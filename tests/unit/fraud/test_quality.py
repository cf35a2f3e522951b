"""Settled decisions for the quality monitor: in ranges, once a day, a share of very many."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from features.spec import DAY
from monitoring.quality import periods
from services.fraud.ingestion import outcomes
from services.fraud.ingestion.tables import DECISIONS_TABLE, LABELS_TABLE
from services.fraud.monitoring import quality
from services.fraud.monitoring.quality import OutcomeReader
from services.fraud.problem import CostModel
from services.platform.models.names import CHALLENGER, CHAMPION
from services.platform.retraining.shadow import SHADOW_SCHEMA, shadow_table
from tests.unit.fraud.test_labelled import RangedLake
from tests.unit.fraud.test_watermark import BEGIN, DAYS, EXTRA, PER_DAY, world
from tests.unit.fraud.whole_tables import settle


class CountingLake(RangedLake):
    """A lake that counts how often labels are read."""

    label_reads = 0

    def read_files(self, files, columns=None, where=None, since=0.0, schema=None):
        self.label_reads += bool(files) and LABELS_TABLE in files[0] and bool(columns)
        return super().read_files(files, columns, where, since, schema)


@pytest.fixture
def lake(monkeypatch):
    for module in (quality, outcomes):
        monkeypatch.setattr(module, "_RANGE", 1_000)
    return CountingLake(world(EXTRA["three rows two months ahead"]).tables)


def shadow_rows(decisions):
    count = len(decisions)
    columns = {
        "seq": decisions["seq"], "event_time": decisions["event_time"],
        "decision_id": decisions["decision_id"], "version": [2] * count,
        "model": ["gnn:2"] * count, "score": [0.9] * count, "threshold": [0.5] * count,
        "seconds": [None] * count, "champion_seconds": [None] * count,
    }  # fmt: skip
    return pa.table(columns).cast(SHADOW_SCHEMA)


def test_ranges_give_what_the_whole_tables_give(lake):
    found = OutcomeReader(lake)({})
    whole = settle(lake.tables[DECISIONS_TABLE], lake.tables[LABELS_TABLE]).rows
    assert found.rows["decision_id"].tolist() == whole["decision_id"].to_pylist()
    assert found.rows["positive"].tolist() == whole["fraud"].to_pylist()
    assert found.rows["weight"].tolist() == whole["weight"].to_pylist()
    assert 0 < lake.most <= 1_000


def test_of_very_many_a_share_is_read_that_costs_the_same(lake, monkeypatch):
    def cost_a_day():
        return np.mean(
            [p.cost_per_hour_eur for p in periods(OutcomeReader(lake)({}), CostModel(), DAY)]
        )

    everything = OutcomeReader(lake)({}).rows
    exact = cost_a_day()
    monkeypatch.setattr(quality, "MAX_ROWS", 2_500)
    share = OutcomeReader(lake)({}).rows
    assert len(share) == pytest.approx(2_500, rel=0.1)
    assert share["weight"].sum() == pytest.approx(len(everything), rel=0.1)
    assert cost_a_day() == pytest.approx(exact, rel=0.25)


def test_only_what_closed_since_is_read_and_only_once(lake):
    read = OutcomeReader(lake)
    everything = read({})
    before = lake.label_reads
    assert read({}) is everything
    assert lake.label_reads == before
    since = (BEGIN + timedelta(days=20)).timestamp()
    later = read({"simulator": since}).rows
    assert later["event_time"].min().timestamp() >= since
    assert len(later) == (everything.rows["event_time"].map(lambda t: t.timestamp()) >= since).sum()


def test_decisions_that_come_later_are_read_when_their_day_closes(lake):
    tables = dict(lake.tables)
    decisions = tables[DECISIONS_TABLE]
    lake.tables[DECISIONS_TABLE] = decisions[: PER_DAY * (DAYS - 5)]
    read = OutcomeReader(lake)
    first = read({})
    lake.tables[DECISIONS_TABLE] = decisions
    second = read({})
    assert second.complete_until["simulator"] - first.complete_until["simulator"] == pytest.approx(
        5 * DAY, rel=0.1
    )
    assert len(second.rows) > len(first.rows)


def test_a_challenger_is_beside_the_champion(lake):
    lake.tables[shadow_table("fraud")] = shadow_rows(lake.tables[DECISIONS_TABLE][:2_000])
    rows = OutcomeReader(lake)({}).rows
    assert (rows["role"] == CHALLENGER).sum() == 2_000
    assert set(rows.loc[rows["role"] == CHALLENGER, "model"]) == {"gnn:2"}
    assert (rows["role"] == CHAMPION).sum() > 2_000


def test_without_labels_nothing_is_read_until_some_come(lake, monkeypatch):
    labels = lake.tables.pop(LABELS_TABLE)
    files = lake.files
    monkeypatch.setattr(lake, "files", lambda t, *a: [] if t not in lake.tables else files(t, *a))
    reads = []
    original = OutcomeReader._read
    monkeypatch.setattr(OutcomeReader, "_read", lambda *a: reads.append(1) or original(*a))
    read = OutcomeReader(lake)
    assert read({}) is None
    assert read({}) is None
    assert len(reads) == 1
    lake.tables[LABELS_TABLE] = labels
    assert len(read({}).rows) > 3_000
    assert len(reads) == 2
