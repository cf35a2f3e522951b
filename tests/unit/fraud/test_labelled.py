"""Labelled transactions are read in ranges, and a sample of those that are too many."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from services.fraud.ingestion import outcomes, watermark
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.ingestion.watermark import FeedTimes
from services.fraud.retraining import labelled, sample
from services.fraud.retraining.dataset import training_rows
from services.fraud.retraining.labelled import after, labelled_transactions
from services.fraud.retraining.sample import Sample
from services.platform.evaluation.sampling import repeated
from tests.unit.fraud.test_watermark import EXTRA, MemoryLake, world
from tests.unit.fraud.whole_tables import clocks, settle


class RangedLake(MemoryLake):
    """A lake that knows the most rows it gave at once."""

    most = 0

    def read_files(self, files, columns=None, where=None, since=0.0, schema=None):
        found = super().read_files(files, columns, where, since, schema)
        if columns:  # without columns a reader looks for the last sequence
            self.most = max(self.most, 0 if found is None else len(found))
        return found


@pytest.fixture(scope="module")
def lake():
    return RangedLake(world(EXTRA["three rows two months ahead"]).tables)


@pytest.fixture
def ranges(monkeypatch):
    for module in (labelled, outcomes, sample):
        monkeypatch.setattr(module, "_RANGE", 1_000)


def test_ranges_give_what_the_whole_tables_give(lake, ranges):
    lake.most = 0
    found = labelled_transactions(lake, after(0.0))
    whole = settle(lake.tables[TRANSACTIONS_TABLE], lake.tables[LABELS_TABLE])
    names = found.settled.rows.column_names
    assert found.settled.rows.equals(whole.rows.select(names))
    assert np.array_equal(found.settled.until, whole.until)
    assert found.settled.fraud_share == whole.fraud_share
    assert found.settled.clocks == whole.clocks
    assert found.limits == {}
    assert 0 < lake.most <= 1_000


def test_of_too_many_all_frauds_are_kept_and_the_weights_make_up_for_the_others(
    lake, ranges, monkeypatch, caplog
):
    everything = labelled_transactions(lake, after(0.0)).settled.rows
    monkeypatch.setattr(sample, "MAX_ROWS", 1_500)
    with caplog.at_level(logging.WARNING):
        found = labelled_transactions(lake, after(0.0))
    rows = found.settled.rows
    assert len(rows) == pytest.approx(1_500, rel=0.1)
    assert pc.sum(rows["fraud"]).as_py() == pc.sum(everything["fraud"]).as_py()
    fraud = rows["fraud"].to_numpy()
    weight = rows["weight"].to_numpy()
    assert (weight[fraud] == 1.0).all()
    assert weight.sum() == pytest.approx(len(everything), rel=0.1)
    assert found.limits["training_transactions"] >= len(everything)
    assert found.limits["training_share_of_frauds"] == 1.0
    assert any("all frauds and" in message for message in caplog.messages)
    # The same ones each time.
    assert labelled_transactions(lake, after(0.0)).settled.rows.equals(rows)
    # The share of frauds among those that were kept is not taken for the share among all.
    assert len(training_rows(lake).settled)


def test_frauds_that_are_too_many_alone_are_sampled_too(lake, ranges):
    found = Sample.of(lake, 5_000, 0.0, 100)
    assert len(found.frauds) <= 50
    assert 0 < found.other_share <= found.fraud_share < 1
    kept, counted = found.keep(lake.tables[TRANSACTIONS_TABLE])
    assert set(np.round(counted[kept], 6)) <= {
        round(1 / found.fraud_share, 6),
        round(1 / found.other_share, 6),
    }


def test_only_the_newest_days_are_read(lake, monkeypatch):
    monkeypatch.setattr(labelled, "MAX_DAYS", 10)
    found = labelled_transactions(lake, after(0.0))
    time = event_times(found.settled.rows)
    assert time.max() - time.min() <= 10 * 86_400
    assert found.limits == {"training_days": 10.0}


@pytest.mark.parametrize("extra", EXTRA.values(), ids=list(EXTRA))
def test_feed_times_in_parts_give_the_same_clocks(monkeypatch, extra):
    rows = world(extra).tables[TRANSACTIONS_TABLE]

    def in_parts():
        times = FeedTimes()
        for begin in range(0, len(rows), 1_000):
            times.add(rows.slice(begin, 1_000))
        return times.clocks()

    exact = clocks(rows)
    assert in_parts() == exact
    # Beyond, a clock is at most a minute slow.
    monkeypatch.setattr(watermark, "MAX_EXACT", 2_000)
    coarse = in_parts()
    assert coarse.keys() == exact.keys()
    for name, clock in coarse.items():
        assert 0 <= exact[name].watermark - clock.watermark < 60
        assert 0 <= exact[name].begin - clock.begin < 60
        assert (clock.ahead, clock.behind) == (exact[name].ahead, exact[name].behind)


def test_rows_that_count_for_too_many_are_thinned_out_by_their_weight():
    weight = np.random.default_rng(0).choice([1.0, 7.0], 10_000)
    chosen = repeated(weight, 5_000)
    assert len(chosen) == 5_000
    assert (np.diff(chosen) >= 0).all()
    heavy = (weight[chosen] == 7.0).mean()
    assert heavy == pytest.approx(7 * (weight == 7).sum() / weight.sum(), rel=0.01)
    assert np.array_equal(repeated(weight, 10**6), repeated(weight))
    assert isinstance(pa.array(chosen), pa.Array)
