"""The skew audit on a running stack: no mismatch until an accumulator is changed."""

import asyncio

import pyarrow as pa
import pytest
from redis import Redis

from features.online.table import OnlineTable
from features.spec import SUMS
from services.fraud.evaluation.run_report import Delays, run_report, wait_until_processed
from services.fraud.features.states import CUSTOMER, FEATURES
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE
from services.fraud.monitoring.skew import audit
from services.fraud.service import SCORER
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.gateway import Gateway, simulated_events
from services.fraud.simulator.traffic import Traffic
from services.platform.models.names import CHAMPION
from services.platform.models.served_file import put_served
from services.platform.storage.lake import Lake
from tests.audits import compare
from tests.conftest import wait_for_port

pytestmark = pytest.mark.slow


async def play(config, nc, begin_us, count):
    gateway = Gateway(nc, SCORER.url(config), config.shards)
    events = simulated_events(Traffic(3), begin_us)
    return await gateway.run(events, 250, count, lambda *_: None)


@pytest.fixture
async def stack(config, nc, worker, onnx):
    put_served(config, onnx, "fraud", CHAMPION, 1)
    worker("fraud", "feature-worker")
    worker("fraud", "lake-writer")
    worker("fraud", "scorer")
    await asyncio.to_thread(wait_for_port, SCORER.port(config))
    return nc


async def test_vectors_match_their_events_and_a_changed_state_is_found(config, stack):
    begin = START_US + 20 * DAY_US
    report = await play(config, stack, begin, 700)
    assert report.failures == 0
    assert await wait_until_processed(config)
    before, after = Delays({}, {}), Delays({1.0: 1.0}, {0.5: 0.0, 1.0: 9.0})
    found, checked = await asyncio.to_thread(run_report, config, report, before, after)
    assert 500 < found["reasons_p95_ms"] < 1_000
    assert (found["vectors"], found["mismatches"], found["lost"]) == (700, 0, 0)
    assert checked.examples == []
    assert (checked.rule_decisions, checked.rule_mismatches, checked.unknown_rules) == (700, 0, 0)

    # Change one accumulator slightly, in the online store only.
    lake = Lake(config)
    customer = lake.read(DECISIONS_TABLE, ["customer_id"])["customer_id"][-1].as_py()
    with Redis.from_url(config.redis) as redis:
        table = OnlineTable(redis, CUSTOMER)
        row = table.load([(customer,)])
        row[0, SUMS + 3] += 1e-9
        table.store([(customer,)], row)
    victim = next(
        h
        for h in simulated_events(Traffic(3), begin + DAY_US)
        if getattr(h.event, "cart", None) is not None and h.event.customer_id == customer
    )
    gateway = Gateway(stack, SCORER.url(config), config.shards)
    await gateway.run([victim], 100, 1, lambda *_: None)
    assert await wait_until_processed(config)
    again = audit(lake)
    assert again.mismatches == 1
    assert again.examples[0].transaction_id == victim.event.transaction_id
    assert "customer_transactions_30d" in again.examples[0].features


def logged(simulated, count):
    """Decisions as the scorer logs them, for the last transactions of the simulated data set."""
    rows = simulated.transactions.slice(len(simulated.transactions) - count)
    chosen = [i for i, seen in enumerate(simulated.events.is_transaction) if seen][-count:]
    seqs = [
        [(name, int(done.snapshots[i, 0])) for name, done in simulated.states.items()]
        for i in chosen
    ]
    n = len(rows)
    plain = {
        "decision_id": "x",
        "decision": "approve",
        "model_decision": "approve",
        "score": 0.1,
        "threshold": 0.2,
        "model": "m",
    }
    columns = {name: pa.array([value] * n) for name, value in plain.items()}
    return pa.table(
        {
            **{name: rows[name] for name in rows.column_names},
            **columns,
            "degraded": pa.array([False] * n),
            "synthetic": pa.array([False] * n),
            "features": pa.array(simulated.vectors[-count:].tolist()),
            "seqs": pa.array(seqs, type=pa.map_(pa.string(), pa.int64())),
            "costs": pa.nulls(n, DECISION_SCHEMA.field("costs").type),
        }
    )


def test_a_changed_bit_in_a_logged_vector_is_a_mismatch(simulated):
    decisions = logged(simulated, 50)
    sound = compare(simulated.events, decisions)
    assert (sound.mismatches, sound.events, sound.gaps) == (0, len(simulated.events), 0)
    vectors = simulated.vectors[-50:].copy()
    column = FEATURES.index("merchant_transactions_30d")
    vectors[7, column] = vectors[7, column] * (1 + 2**-52)
    at = decisions.column_names.index("features")
    found = compare(
        simulated.events, decisions.set_column(at, "features", pa.array(vectors.tolist()))
    )
    assert found.mismatches == 1
    assert found.examples[0].features == ("merchant_transactions_30d",)


def test_a_sequence_that_is_not_among_the_events_is_a_mismatch(simulated):
    decisions = logged(simulated, 20)
    pairs = [dict(p) for p in decisions["seqs"].to_pylist()]
    pairs[3]["customer_state"] += 1
    changed = pa.array([list(p.items()) for p in pairs], type=pa.map_(pa.string(), pa.int64()))
    at = decisions.column_names.index("seqs")
    found = compare(simulated.events, decisions.set_column(at, "seqs", changed))
    assert found.mismatches == 1
    assert "not among the events" in found.examples[0].reason
