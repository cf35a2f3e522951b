"""What a fault did to payments, counted in a lake that is damaged on purpose."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from services.fraud.evaluation.without_features import damage as counting
from services.fraud.evaluation.without_features.damage import Ranges, damage, extra_cost
from services.fraud.features.states import FEATURES
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABELS_TABLE,
    TRANSACTION_SCHEMA,
    TRANSACTIONS_TABLE,
)
from services.fraud.model import read_model
from services.fraud.problem import APPROVE, CostModel
from services.fraud.service import SCORER
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.gateway import Gateway, simulated_events
from services.fraud.simulator.traffic import Traffic
from services.platform.models.names import CHAMPION
from services.platform.models.served_file import put_served
from services.platform.storage.lake import Lake
from tests.conftest import wait_for_port
from tests.integration.fraud.test_audit import logged

COUNT = 300
NOW = datetime(2026, 11, 29, 10, tzinfo=UTC)
# Of the last payments: decided without the online store, and not at all.
DEGRADED, UNANSWERED = range(40, 60), (100, 101, 102)


def with_column(rows, name, values):
    at = rows.column_names.index(name)
    return rows.set_column(at, name, pa.array(values, rows.schema.field(name).type))


def write_decisions(lake, decisions):
    count = len(decisions)
    decisions = with_column(decisions, "seq", np.arange(1, count + 1))
    nulls = {f.name: pa.nulls(count, f.type) for f in DECISION_SCHEMA
             if f.name not in decisions.column_names}  # fmt: skip
    columns = {name: decisions[name] for name in decisions.column_names} | nulls
    rows = pa.table(columns).select(DECISION_SCHEMA.names).cast(DECISION_SCHEMA)
    lake.write(DECISIONS_TABLE, rows, f"lake-decisions-{1:012d}-{count:012d}")


def write_events(lake, simulated, unanswered):
    rows = simulated.transactions
    outcome = ["approve"] * len(rows)
    for i in unanswered:
        outcome[len(rows) - COUNT + i] = None
    columns = {n: rows[n] for n in rows.column_names if n != "outcome"}
    events = pa.table({**columns, "outcome": pa.array(outcome, pa.string())})
    nulls = {f.name: pa.nulls(len(rows), f.type) for f in TRANSACTION_SCHEMA
             if f.name not in events.column_names}  # fmt: skip
    events = pa.table({**{n: events[n] for n in events.column_names}, **nulls})
    events = events.select(TRANSACTION_SCHEMA.names).cast(TRANSACTION_SCHEMA)
    lake.write(TRANSACTIONS_TABLE, events, "history-00001")
    lake.write(LABELS_TABLE, simulated.labels, "history-00001", partition=False)


def decided(simulated):
    """Decisions on the last payments, each with an id of its own."""
    rows = with_column(logged(simulated, COUNT), "decision_id", [f"{i:032x}" for i in range(COUNT)])
    # What the model alone decides, and so no mismatch.
    return with_column(rows, "score", [0.1] * COUNT)


@pytest.fixture
def lake(config, nc, simulated, onnx, monkeypatch):
    lake = Lake(config)
    lake.remove(["fraud"])
    put_served(config, onnx, "fraud", CHAMPION, 1)
    first = int(simulated.transactions["seq"][-COUNT].as_py())
    events = (first - 1, simulated.last_seq)
    monkeypatch.setattr(counting, "_EVENTS", 40_000)

    async def ranges(*_):
        return Ranges(events, (0, COUNT + 5), events, (0, COUNT + 5))

    monkeypatch.setattr(counting, "_ranges", ranges)
    yield lake
    lake.remove(["fraud"])


def counted(config):
    return damage(config, NOW, NOW + timedelta(minutes=1))


def test_nothing_was_damaged(config, lake, simulated):
    write_events(lake, simulated, ())
    write_decisions(lake, decided(simulated))
    found = counted(config)
    assert (found.came_in, found.unanswered, found.degraded) == (COUNT, 0, 0)
    assert (found.lost, found.doubled, found.skewed, found.eur) == (0, 0, 0, 0.0)
    assert found.compared == COUNT


def test_each_damage_is_counted_once(config, lake, simulated):
    write_events(lake, simulated, UNANSWERED)
    rows = decided(simulated)
    vectors = simulated.vectors[-COUNT:].copy()
    vectors[7, FEATURES.index("merchant_transactions_30d")] += 1.0
    rows = with_column(rows, "features", vectors.tolist())
    keep = [i for i in range(COUNT) if i not in (*UNANSWERED, 200, 201)]
    twice = [*keep, 30]
    write_decisions(lake, rows.take(pa.array(twice)))
    found = counted(config)
    assert (found.came_in, found.unanswered, found.lost) == (COUNT, 3, 2)
    assert (found.doubled, found.skewed, found.compared) == (1, 1, len(twice))


def test_an_event_that_the_lake_lacks_is_lost(config, lake, simulated):
    write_events(lake, simulated, ())
    write_decisions(lake, decided(simulated))
    before = counted(config).lost
    [file] = [f for f in lake.files(TRANSACTIONS_TABLE) if "date=" in f][-1:]
    table = lake.read_files([file])
    lake.put_table(file.removeprefix(f"{lake.bucket}/"), table.slice(0, len(table) - 4))
    assert (before, counted(config).lost) == (0, 4)


def test_the_money_is_of_what_the_champion_would_have_decided(config, lake, simulated, onnx):
    """Against features computed in memory, for every degraded and every unanswered payment."""
    write_events(lake, simulated, UNANSWERED)
    rows = decided(simulated)
    degraded = [i in DEGRADED for i in range(COUNT)]
    done = ["decline" if one else "approve" for one in degraded]
    costs = [asdict(CostModel()) | {"slot": None}] * COUNT
    for name, values in (
        ("degraded", degraded), ("decision", done), ("model_decision", done), ("costs", costs),
    ):  # fmt: skip
        rows = with_column(rows, name, values)
    write_decisions(lake, rows.take(pa.array([i for i in range(COUNT) if i not in UNANSWERED])))

    chosen = [*DEGRADED, *UNANSWERED]
    score = read_model(onnx).score(simulated.vectors[-COUNT:][chosen], {}).astype(np.float64)
    amount = simulated.amount[-COUNT:][chosen]
    outcome = np.array([1] * len(DEGRADED) + [APPROVE] * len(UNANSWERED))
    expected = extra_cost(score, amount, outcome, CostModel()).sum() / 100

    found = counted(config)
    assert (found.degraded, found.unanswered) == (len(DEGRADED), len(UNANSWERED))
    assert expected > 0
    assert found.eur == pytest.approx(expected)
    assert "3 unanswered, 20 degraded" in found.said[0]


async def play(config, nc, day, count):
    gateway = Gateway(nc, SCORER.url(config), config.shards)
    events = simulated_events(Traffic(3), START_US + day * DAY_US)
    return await gateway.run(events, 250, count, lambda *_: None)


@pytest.mark.slow
async def test_a_scorer_that_is_killed_and_comes_back_without_redis(
    config, nc, worker, onnx, monkeypatch
):
    put_served(config, onnx, "fraud", CHAMPION, 1)
    worker("fraud", "feature-worker")
    worker("fraud", "lake-writer")
    scorer = worker("fraud", "scorer")
    await asyncio.to_thread(wait_for_port, SCORER.port(config))
    assert (await play(config, nc, 20, 100)).degraded == 0
    await asyncio.sleep(0.5)

    since = datetime.now(UTC)
    scorer.kill()
    scorer.wait()
    assert (await play(config, nc, 21, 20)).failures == 20
    monkeypatch.setenv("WHITEBOARD_REDIS_PORT", "9")
    worker("fraud", "scorer")
    await asyncio.to_thread(wait_for_port, SCORER.port(config))
    assert (await play(config, nc, 22, 60)).degraded == 60
    await asyncio.sleep(0.5)  # decisions are stored a moment after the answer
    until = datetime.now(UTC)
    assert (await play(config, nc, 23, 30)).failures == 0

    found = await asyncio.to_thread(damage, config, since, until)
    assert (found.came_in, found.unanswered, found.degraded) == (80, 20, 60)
    assert (found.lost, found.doubled, found.skewed, found.compared) == (0, 0, 0, 60)
    assert found.eur is not None
    assert "20 unanswered, 60 degraded" in found.said[0]
