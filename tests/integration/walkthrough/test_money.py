"""The view of money on a real lake and a real stream."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pyarrow as pa
import pytest

from services.cv_inspection.evaluation.money import read as read_inspections
from services.cv_inspection.ingestion.lake_writer import to_row
from services.cv_inspection.ingestion.tables import INSPECTIONS, INSPECTIONS_TABLE
from services.fraud.ingestion.tables import DECISION_SCHEMA, DECISIONS_TABLE
from services.fraud.problem import OUTCOMES, CostModel
from services.fraud.review.live import CostChange, change_costs
from services.fraud.review.policy import COSTS
from services.platform.design import WALKTHROUGH
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Message
from services.walkthrough.app import create_app
from tests.integration.cv_inspection.inspections import made_inspection

COUNT = 3_000
BEGIN = datetime(2026, 11, 20, tzinfo=UTC)


def decisions():
    rng = np.random.default_rng(11)
    made = {name: [None] * COUNT for name in DECISION_SCHEMA.names}
    slots = rng.choice([None, 0.0, 30.0, 90.0], COUNT)
    sheets = [{**{c: getattr(CostModel(), c) for c in COSTS}, "slot": slot} for slot in slots]
    made |= {
        "seq": range(1, COUNT + 1),
        "transaction_id": [f"t{i}" for i in range(COUNT)],
        "event_time": [BEGIN + timedelta(minutes=i) for i in range(COUNT)],
        "customer_id": ["c"] * COUNT,
        "merchant_id": ["m"] * COUNT,
        "amount_minor": rng.lognormal(8, 1, COUNT).astype(int),
        "cart": [[]] * COUNT,
        "decision_id": [f"{i:032x}" for i in range(COUNT)],
        "decision": ["approve"] * COUNT,
        "score": rng.beta(0.3, 3, COUNT),
        "threshold": [0.3] * COUNT,
        "model": ["xgboost:1"] * COUNT,
        "degraded": [False] * COUNT,
        "synthetic": rng.random(COUNT) < 0.1,
        "features": [[]] * COUNT,
        "seqs": [{}] * COUNT,
        "costs": sheets,
    }
    return pa.table(made, schema=DECISION_SCHEMA)


@pytest.fixture
def lake(config):
    made = Lake(config)
    made.remove([DECISIONS_TABLE])
    yield made
    made.remove([DECISIONS_TABLE])


@pytest.fixture
async def client(config):
    # By its own account, which may read no more than its wiring says.
    transport = httpx.ASGITransport(create_app(config.with_account(WALKTHROUGH.name)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as made:
        yield made


async def test_figures_equal_the_lake_decided_one_by_one(client, lake, nc):
    assert (await client.get("/api/money?design=fraud")).status_code == 404
    rows = decisions()
    await asyncio.to_thread(lake.write, DECISIONS_TABLE, rows, "1-3000")
    await change_costs(nc.jetstream(), CostChange(opex=7))
    wanted = {"opex": 9.5, "fee": 40.0, "analyst_minutes": 6.0, "missed": 0.1}
    query = "".join(f"&cost={name}={value}" for name, value in wanted.items())
    await client.get("/api/money?design=fraud")
    found = (await client.get(f"/api/money?design=fraud{query}")).json()
    live = [row for row in rows.to_pylist() if not row["synthetic"]]
    assert found["decisions"] == len(live)
    assert found["present"]["opex"] == 7.0
    counts, euros = dict.fromkeys(OUTCOMES, 0), 0.0
    for row in live:
        slot = row["costs"]["slot"]
        slot = float("inf") if slot is None else slot
        model = CostModel(950, 4_000, analyst_minutes=6.0, missed=0.1, slot=slot)
        code = model.outcome(row["score"], row["amount_minor"])
        counts[OUTCOMES[code]] += 1
        euros += model.expected(row["score"], row["amount_minor"])[code] / 100
    assert {one["outcome"]: one["chosen"] for one in found["outcomes"]} == counts
    days = len({row["event_time"].replace(minute=0) for row in live}) / 24
    assert found["eur_per_day"] == pytest.approx(euros / days)
    assert found["eur_per_day"] < found["eur_per_day_now"]


async def test_an_inspection_that_the_stream_has_twice_counts_once(config, nc):
    rows = [
        to_row(Message("", made_inspection(number).model_dump_json().encode(), seq, 0, ""))[1]
        | {"seq": seq}
        for seq, number in enumerate((1, 2, 1), start=1)
    ]
    Lake(config).write(INSPECTIONS_TABLE, pa.Table.from_pylist(rows, INSPECTIONS), "1-3")
    logged = read_inspections(config)
    assert len(logged.score) == len(logged.threshold) == len(logged.amount) == 2


async def test_a_wrong_cost_is_named(client, lake, nc):
    await asyncio.to_thread(lake.write, DECISIONS_TABLE, decisions(), "1-3000")
    answer = await client.get("/api/money?design=fraud&cost=weather=3")
    assert answer.status_code == 422
    assert "weather" in answer.json()["error"]
    assert (await client.get("/api/money?design=fraud&cost=missed=7")).status_code == 422
    assert (await client.get("/api/money?design=fraud&cost=opex")).status_code == 422
