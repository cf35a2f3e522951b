"""Quality from the lake: each period is computed once, also after a restart."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from monitoring.quality import RECALL, QualityTracker, quality_table
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABEL_SCHEMA,
    LABELS_TABLE,
)
from services.fraud.monitoring.quality import QUALITY_SPEC
from services.platform.retraining.shadow import SHADOW_SCHEMA, shadow_table
from services.platform.storage.lake import Lake

BEGIN = datetime(2022, 5, 1, tzinfo=UTC)
DAYS, PER_DAY = 20, 120


@pytest.fixture
def lake(config):
    made = Lake(config)
    tables = [DECISIONS_TABLE, LABELS_TABLE, shadow_table("fraud"), quality_table("fraud")]
    made.remove(tables)
    yield made
    made.remove(tables)


def rows(begin, end):
    rng = np.random.default_rng(0)
    count = DAYS * PER_DAY
    positive = rng.random(count) < 0.1
    score = np.where(positive, rng.uniform(0.4, 1, count), rng.uniform(0, 0.6, count))
    for n in range(count):
        at = BEGIN + timedelta(days=n / PER_DAY)
        if begin <= n / PER_DAY < end:
            yield n, at, bool(positive[n]), float(score[n])


def parties(n, at):
    return {"seq": n + 1, "transaction_id": f"t{n}", "event_time": at, "customer_id": "c1",
            "merchant_id": "m1", "device_id": None, "ip": None}  # fmt: skip


def write(lake, begin, end):
    """Decisions of some days, their labels a week late, and a challenger's scores of half."""
    decisions, labels, shadow = [], [], []
    for n, at, positive, score in rows(begin, end):
        decision = {
            "decision_id": f"d{n}", "decision": "decline" if score >= 0.5 else "approve",
            "score": score, "threshold": 0.5, "degraded": n % PER_DAY == 9,
            "model": "fallback:1" if n % PER_DAY == 9 else "xgboost:1",
            "synthetic": n % PER_DAY == 7, "features": [], "seqs": [], "cart": [],
            "amount_minor": 5_000,
        }  # fmt: skip
        decisions.append({**parties(n, at), **decision})
        labels.append({**parties(n, at + timedelta(days=7)), "fraud": positive})
        if n % 2:
            shadow.append({"seq": n + 1, "event_time": at, "decision_id": f"d{n}", "version": 2,
                           "model": "gnn:2", "score": float(positive), "threshold": 0.5,
                           "seconds": 0.0, "champion_seconds": 0.0})  # fmt: skip
    tables = ((DECISIONS_TABLE, DECISION_SCHEMA, decisions), (LABELS_TABLE, LABEL_SCHEMA, labels),
              (shadow_table("fraud"), SHADOW_SCHEMA, shadow))  # fmt: skip
    for table, schema, made in tables:
        lake.write(table, pa.Table.from_pylist(made, schema=schema), f"part-{begin}")


def test_each_period_is_computed_once_when_its_labels_are_in(lake):
    tracker = QualityTracker(lake, QUALITY_SPEC)
    assert tracker.update() == []
    write(lake, 0, 16)
    # Of sixteen days two are past their dispute window, and the second may still go on.
    first = tracker.update()
    assert {(p.role, p.model) for p in first} == {
        ("champion", "xgboost:1"),
        ("challenger", "gnn:2"),
    }
    assert {p.begin for p in first} == {BEGIN.timestamp()}
    champion = next(p for p in first if p.role == "champion")
    challenger = next(p for p in first if p.role == "challenger")
    assert champion.decisions == PER_DAY - 2  # one was a load test's, one the fallback's
    assert challenger.recall == challenger.precision == 1.0
    assert champion.recall < 1.0
    assert tracker.update() == []
    # Another process resumes where this one stopped.
    write(lake, 16, DAYS)
    again = QualityTracker(lake, QUALITY_SPEC)
    assert {p.begin for p in again.update()} == {
        (BEGIN + timedelta(days=day)).timestamp() for day in range(1, 5)
    }
    assert len(lake.read(quality_table("fraud"))) == 10


def test_an_undefined_share_is_stored_and_not_shown(lake):
    """Nothing is positive, so that there is no recall: the lake keeps NaN, /metrics no sample."""
    decisions, labels = [], []
    for n, at, _, score in rows(0, 16):
        decision = {
            "decision_id": f"d{n}", "decision": "decline" if score >= 0.5 else "approve",
            "score": score, "threshold": 0.5, "degraded": False, "model": "xgboost:1",
            "synthetic": False, "features": [], "seqs": [], "cart": [], "amount_minor": 5_000,
        }  # fmt: skip
        decisions.append({**parties(n, at), **decision})
        labels.append({**parties(n, at + timedelta(days=7)), "fraud": False})
    for table, schema, made in ((DECISIONS_TABLE, DECISION_SCHEMA, decisions),
                                (LABELS_TABLE, LABEL_SCHEMA, labels)):  # fmt: skip
        lake.write(table, pa.Table.from_pylist(made, schema=schema), "part-0")
    assert QualityTracker(lake, QUALITY_SPEC).update()
    assert not RECALL.collect()[0].samples
    assert np.isnan(lake.read(quality_table("fraud"))["recall"].to_pylist()).all()
    again = QualityTracker(lake, QUALITY_SPEC)
    assert again.update() == []
