"""The scorer against real engines that are stopped, killed and started again."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import SecretStr
from redis import Redis

from features.aggregation import backfill
from features.online.layout import RowLayout
from features.online.table import OnlineTable
from features.spec import SEQ
from infra.local.engines import engines, free_port
from services.fraud.candidates.fallback import Fallback
from services.fraud.features.backfill import load_online
from services.fraud.features.request import cart_sets
from services.fraud.features.states import CUSTOMER, FEATURES, SETS, STATES, TABULAR
from services.fraud.ingestion.events import DECISIONS_STREAM
from services.fraud.ingestion.lake_writer import to_row
from services.fraud.ingestion.tables import DECISION_SCHEMA
from services.fraud.model import FALLBACK
from services.fraud.monitoring.drift import observe
from services.fraud.problem import OUTCOMES, CostModel
from services.fraud.review.control import is_control
from services.fraud.review.live import CostChange, change_costs
from services.fraud.serving.app import EXAMPLE_TRANSACTION, MAX_BYTES, create_app
from services.fraud.serving.scorer import NO_SCORE
from services.fraud.simulator.bootstrap import create_streams
from services.fraud.simulator.tables import transaction
from services.platform.models.attachments import attach
from services.platform.models.candidates import Examples
from services.platform.models.checks.signature import make_key
from services.platform.models.names import CHAMPION
from services.platform.models.onnx import write_card
from services.platform.models.promotion import announce
from services.platform.models.served_file import put_served
from services.platform.runtime.tokens import SYNTHETIC, synthetic_headers
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import Message
from tests.audits import compare
from tests.conftest import card, make_settings, start_engine
from tests.integration.conftest import until
from tests.unit.fraud.test_ingestion import BAD

FALLBACK_THRESHOLD = 0.321


class Engines:
    """Engines of one test, by name; NATS and Redis run from the start."""

    def __init__(self, config):
        self.config = config
        self._wanted = {p.name: p for p in engines(config)}
        self._running = {}
        for name in ("nats", "redis"):
            self.start(name)

    def start(self, name):
        self._running[name] = start_engine(self._wanted[name], self.config.home)

    def signal(self, name, number):
        self._running[name].send_signal(number)

    def kill(self, name):
        self._running[name].kill()
        self._running[name].wait(10)

    def stop(self):
        for process in self._running.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(10)


@pytest.fixture
def own(config, tmp_path):
    ports = {name: free_port() for name in ("nats_port", "nats_http_port", "redis_port")}
    key = {"signing_key": SecretStr(make_key(config)), "verify_key": config.plain_verify_key}
    made = Engines(config.model_copy(update={"home": tmp_path, "bucket": "lake", **ports, **key}))
    yield made
    made.stop()


@pytest.fixture
def champion(config, onnx):
    lake = Lake(config)
    put_served(config, onnx, "fraud", CHAMPION, 1)
    yield onnx
    lake.remove(["models"])


@asynccontextmanager
async def serving(config) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(config)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client


@pytest.fixture
async def client(own, champion):
    nc = await connect(own.config, "test")
    await create_streams(nc.jetstream(), 0)
    await nc.close()
    async with serving(own.config) as made:
        yield made


async def decisions(config):
    """The decisions in the stream."""
    nc = await connect(config, "test")
    try:
        js = nc.jetstream()
        info = await js.stream_info(DECISIONS_STREAM)
        found = []
        for seq in range(info.state.first_seq, info.state.last_seq + 1):
            message = await js.get_msg(DECISIONS_STREAM, seq=seq)
            found.append(orjson.loads(message.data))
        return found
    finally:
        await nc.close()


def asked(number=0, **changes):
    return {**EXAMPLE_TRANSACTION, "transaction_id": f"t{number}", **changes}


async def test_a_decision_and_its_event(client, own):
    answer = await client.post("/score", json=EXAMPLE_TRANSACTION)
    assert answer.status_code == 200
    decision = answer.json()
    assert decision["decision"] in ("approve", "decline")
    amount = EXAMPLE_TRANSACTION["amount_minor"]
    assert decision["decision"] == OUTCOMES[CostModel().outcome(decision["score"], amount)]
    assert decision["model"] == "xgboost:1"
    assert decision["degraded"] is False
    stages = [part.split(";")[0] for part in answer.headers["Server-Timing"].split(", ")]
    assert stages == ["validate", "fetch", "read", "infer", "rules", "encode"]

    async def arrived():
        return await decisions(own.config)

    await until(arrived)
    [event] = await decisions(own.config)
    assert event["decision_id"] == decision["decision_id"]
    assert len(event["features"]) == len(FEATURES)
    assert event["seqs"] == {state.name: 0 for state in STATES}
    assert event["synthetic"] is False


async def test_would_be_declines_of_the_control_group_are_approved(champion, own):
    nc = await connect(own.config, "test")
    await create_streams(nc.jetstream(), 0)
    # Declining costs next to nothing, so every payment would be declined.
    await change_costs(nc.jetstream(), CostChange(opex=0.01, fee=1_000_000))
    async with serving(own.config.model_copy(update={"control_share": 1.0})) as client:

        async def declined():
            answer = (await client.post("/score", json=EXAMPLE_TRANSACTION)).json()
            return answer["model_decision"] == "decline"

        await until(declined)
        # Of 200 EUR, half are approved: 100 EUR may be at stake.
        bodies = [asked(number, amount_minor=20_000) for number in range(20)]
        answers = [(await client.post("/score", json=body)).json() for body in bodies]
    await nc.close()
    for number, answer in enumerate(answers):
        chosen = is_control(f"t{number}", 0.5)
        assert (answer["control"], answer["propensity"]) == (chosen, 0.5)
        assert answer["decision"] == ("approve" if chosen else "decline")
        assert answer["model_decision"] == "decline"
    assert {answer["control"] for answer in answers} == {True, False}


async def test_a_load_tests_decisions_are_marked(client, own):
    for headers in (SYNTHETIC, synthetic_headers("wrong"), synthetic_headers("")):
        answer = await client.post("/score", json=EXAMPLE_TRANSACTION, headers=headers)
        assert answer.status_code == 401
    headers = synthetic_headers(own.config.plain_label_token)
    answer = await client.post("/score", json=EXAMPLE_TRANSACTION, headers=headers)
    assert answer.status_code == 200
    await until(lambda: decisions(own.config))
    [event] = await decisions(own.config)
    assert event["synthetic"] is True
    message = Message("fraud.decision.0", orjson.dumps(event), 1, 0, "")
    assert observe(message) is None
    assert observe(replace(message, data=orjson.dumps({**event, "synthetic": False})))


async def test_it_scores_as_training_does(client, own, simulated, candidate):
    """The score from states in Redis equals the native model's on the logged features."""
    from redis import Redis

    count = len(simulated.events)
    folded = backfill(STATES, simulated.events)
    with Redis.from_url(own.config.redis) as redis:
        for done in folded.values():
            OnlineTable(redis, done.state).store(done.keys, done.table)
    row = simulated.transactions.slice(len(simulated.transactions) - 1).to_pylist()[0]
    body = {k: row[k] for k in ("customer_id", "merchant_id", "device_id", "ip", "amount_minor")}
    later = row["event_time"].replace(microsecond=0).isoformat()
    answer = await client.post("/score", json=asked(1, event_time=later, cart=row["cart"], **body))

    async def arrived():
        return await decisions(own.config)

    await until(arrived)
    [event] = await decisions(own.config)
    vector = [float("nan") if v is None else v for v in event["features"]]
    assert answer.json()["score"] == pytest.approx(candidate.score(np_row(vector))[0], abs=1e-6)
    assert 0 < max(event["seqs"].values()) <= count


def np_row(vector):
    import numpy as np

    row = np.array([vector[: len(TABULAR)]])
    return Examples(row, np.zeros(1, bool), np.zeros(1))


async def test_bad_fields_are_a_422_that_names_them(client):
    for field, value in BAD:
        answer = await client.post("/score", json={**EXAMPLE_TRANSACTION, field: value})
        assert answer.status_code == 422, (field, value)
        assert answer.json()["error"].startswith(field), (field, value)


async def test_a_transaction_from_the_future_is_a_422(client):
    answer = await client.post(
        "/score", json={**EXAMPLE_TRANSACTION, "event_time": "2099-01-01T00:00:00Z"}
    )
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("event_time")


async def test_bad_json_is_a_422(client):
    for body in (b"", b"{", b"null", b"[1]", b"\xff\xfe", b'{"a": NaN}', b"[" * 9_999):
        answer = await client.post("/score", content=body)
        assert answer.status_code == 422, body
        assert answer.json()["error"], body


async def test_large_bodies_are_a_413(client):
    answer = await client.post("/score", content=b"x" * 10_000_000)
    assert answer.status_code == 413
    assert str(MAX_BYTES) in answer.json()["error"]

    async def chunks():
        for _ in range(100):
            yield b"x" * 100_000

    assert (await client.post("/score", content=chunks())).status_code == 413
    items = [{"category": "bread", "price_minor": 1}] * 10_000
    assert (await client.post("/score", json=asked(cart=items))).status_code in (413, 422)
    assert (await client.post("/score", json=EXAMPLE_TRANSACTION)).status_code == 200


async def test_without_redis_it_degrades_and_recovers(client, own):
    own.kill("redis")
    for number in range(5):
        answer = await client.post("/score", json=asked(number))
        assert answer.status_code == 200
        assert answer.json()["degraded"] is True
        assert answer.json()["model"] == "xgboost:1"  # its file has no fallback
    assert (await client.get("/readyz")).status_code == 200
    own.start("redis")

    async def whole():
        return not (await client.post("/score", json=EXAMPLE_TRANSACTION)).json()["degraded"]

    await until(whole)


@pytest.fixture
def fallback_file(simulated):
    """A fallback trained on a few rows."""
    chosen = slice(0, None, 20)
    rows = simulated.transactions.take(pa.array(range(0, len(simulated.transactions), 20)))
    examples = Examples(
        simulated.vectors[chosen, : len(TABULAR)],
        simulated.fraud[chosen],
        simulated.amount[chosen].astype(float),
        {"items": cart_sets(rows)},
    )
    made = Fallback({"rounds": 5, "max_depth": 3}, TABULAR)
    made.fit(examples, examples, 0, lambda *_: None)
    return write_card(
        made.export(), card(candidate="fallback", sets=SETS, threshold=FALLBACK_THRESHOLD)
    )


@pytest.fixture
def champion_with_fallback(champion, config, fallback_file):
    """The champion's file with a fallback."""
    put_served(config, attach(champion, {FALLBACK: fallback_file}), "fraud", CHAMPION, 1)


async def test_without_redis_the_fallback_decides_by_the_rows_read_last(
    champion_with_fallback, client, own, simulated
):
    with Redis.from_url(own.config.redis) as redis:
        load_online({s.name: OnlineTable(redis, s) for s in STATES}, simulated.states, nothing)
    day = simulated.days[-1]
    known = transaction(day, int(np.nonzero(day.device >= 0)[0][0])).model_dump(mode="json")
    known["event_time"] = "2022-12-01T12:00:00Z"
    whole = (await client.post("/score", json=known)).json()
    own.kill("redis")
    again = (await client.post("/score", json={**known, "transaction_id": "again"})).json()
    new = {**known, "transaction_id": "new", "ip": "45.1.2.3"}
    other = (await client.post("/score", json=new)).json()
    assert (whole["degraded"], again["degraded"], other["degraded"]) == (False, True, True)
    assert again["threshold"] == other["threshold"] == FALLBACK_THRESHOLD
    assert (whole["model"], again["model"]) == ("xgboost:1", "fallback:1")
    # Its own probability, by the costs of every decision: nothing is declined for want of features.
    for body, answer in ((known, again), (new, other)):
        outcome = CostModel().outcome(answer["score"], body["amount_minor"])
        assert answer["model_decision"] == OUTCOMES[outcome]

    async def arrived():
        return len(await decisions(own.config)) == 3

    await until(arrived)
    events = await decisions(own.config)
    by_id = {event["transaction_id"]: event for event in events}
    read, kept, unseen = by_id[known["transaction_id"]], by_id["again"], by_id["new"]
    assert min(seq for seq in read["seqs"].values()) > 0
    assert (kept["seqs"], kept["features"]) == (read["seqs"], read["features"])
    assert unseen["seqs"] == {**read["seqs"], "ip_state": None}
    rows = [{**to_row(logged(event))[1], "seq": number} for number, event in enumerate(events)]
    audited = compare(simulated.events, pa.Table.from_pylist(rows, DECISION_SCHEMA))
    assert (audited.vectors, audited.degraded, audited.mismatches) == (3, 2, 0)


def without_scores_from(amount):
    """A model file that scores amounts below a limit, and gives NaN for others."""
    nodes = [
        helper.make_node("Gather", ["features", "first"], ["amount"], axis=1),
        helper.make_node("IsNaN", ["amount"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "amount"], ["known"]),
        helper.make_node("Sub", ["limit", "known"], ["below"]),
        helper.make_node("Sqrt", ["below"], ["root"]),
        helper.make_node("Mul", ["root", "small"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "limited",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(TABULAR)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n"])],
        [
            numpy_helper.from_array(np.array(0), "first"),
            numpy_helper.from_array(np.array(0, "f4"), "zero"),
            numpy_helper.from_array(np.array(amount, "f4"), "limit"),
            numpy_helper.from_array(np.array(0.001, "f4"), "small"),
        ],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return write_card(model.SerializeToString(), card(candidate="limited"))


@pytest.mark.parametrize("has_fallback", [False, True])
async def test_what_the_model_does_not_score_is_its_fallbacks_or_a_decline(
    champion, fallback_file, config, own, has_fallback
):
    attached = {FALLBACK: fallback_file} if has_fallback else {}
    put_served(config, attach(without_scores_from(1_000.0), attached), "fraud", CHAMPION, 1)
    nc = await connect(own.config, "test")
    await create_streams(nc.jetstream(), 0)
    await nc.close()
    large = asked("large", amount_minor=99_999_999)
    async with serving(own.config) as client:
        scored = (await client.post("/score", json=asked(amount_minor=100))).json()
        rescued = (await client.post("/score", json=large)).json()
        explained = (await client.post("/score?reasons=true", json=large)).json()
    assert (scored["decision"], scored["degraded"]) == ("approve", False)
    for answer in (rescued, explained):
        assert (answer["decision"], answer["degraded"]) == ("decline", True)
        assert answer["model"] == ("fallback:1" if has_fallback else "limited:1")
    assert (rescued["score"] == NO_SCORE) is not has_fallback
    by_id = {event["transaction_id"]: event for event in await decisions(own.config)}
    logged = Message("fraud.decision.0", orjson.dumps(by_id["tlarge"]), 1, 0, "")
    assert to_row(logged)[1]["score"] == rescued["score"]


async def test_a_key_of_another_type_is_one_customers_trouble(champion_with_fallback, client, own):
    with Redis.from_url(own.config.redis) as redis:
        table, layout = OnlineTable(redis, CUSTOMER), RowLayout.of(CUSTOMER)
        redis.set(layout.key(("odd",)), "no row")
        for number, (customer, degraded) in enumerate([("odd", True), ("c42", False)] * 2):
            asking = asked(number, customer_id=customer)
            assert (await client.post("/score", json=asking)).json()["degraded"] is degraded
        assert (await client.get("/readyz")).json()["redis"] == "up"
        assert ("odd",) not in list(table.entities())
        rows = np.zeros((2, CUSTOMER.width))
        rows[:, SEQ] = 5.0
        assert np.isnan(table.load([("odd",)])).all()
        table.store([("odd",), ("even",)], rows)  # as a rebuild does
        assert (table.load([("odd",), ("even",)]) == rows).all()
        answer = await client.post("/score", json=asked(9, customer_id="odd"))
        assert answer.json()["degraded"] is False


def nothing(*_):
    pass


def logged(event):
    return Message("fraud.decision.0", orjson.dumps(event), 1, 0, "")


async def test_with_a_hanging_redis_it_degrades_and_recovers(client, own):
    own.signal("redis", signal.SIGSTOP)
    answers = await asyncio.gather(*(client.post("/score", json=asked(n)) for n in range(20)))
    assert {a.status_code for a in answers} == {200}
    assert all(a.json()["degraded"] for a in answers)
    own.signal("redis", signal.SIGCONT)

    async def whole():
        return not (await client.post("/score", json=EXAMPLE_TRANSACTION)).json()["degraded"]

    await until(whole)


async def test_without_nats_no_decision_is_lost(client, own):
    sent = [(await client.post("/score", json=asked(n))).json()["decision_id"] for n in range(5)]
    own.kill("nats")
    for number in range(5, 40):
        answer = await client.post("/score", json=asked(number))
        assert answer.status_code == 200
        sent.append(answer.json()["decision_id"])

    async def spilled():
        return (await client.get("/readyz")).json()["outbox_events"] >= 35

    await until(spilled)
    own.start("nats")

    async def arrived():
        found = {d["decision_id"] for d in await decisions(own.config)}
        return found >= set(sent)

    await until(arrived)

    async def empty():
        return (await client.get("/readyz")).json()["outbox_events"] == 0

    await until(empty)


async def test_it_starts_and_scores_without_nats_and_keeps_decisions_over_a_restart(own, champion):
    own.kill("nats")
    async with serving(own.config) as client:
        answer = await client.post("/score", json=EXAMPLE_TRANSACTION)
        assert answer.status_code == 200
    own.start("nats")
    nc = await connect(own.config, "test")
    await create_streams(nc.jetstream(), 0)
    await nc.close()
    async with serving(own.config):

        async def arrived():
            return [d["decision_id"] for d in await decisions(own.config)]

        await until(arrived)
        assert await arrived() == [answer.json()["decision_id"]]


async def promote(config, data, version):
    put_served(config, data, "fraud", CHAMPION, 1)
    nc = await connect(config, "test")
    await announce(nc, "fraud", version)
    await nc.close()


@pytest.mark.slow
async def test_a_champion_is_replaced_without_a_failed_request(client, own, candidate):
    answers = []
    done = asyncio.Event()

    async def ask():
        while not done.is_set():
            answers.append(await client.post("/score", json=EXAMPLE_TRANSACTION))

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    await promote(own.config, write_card(candidate.export(), card(version=2, threshold=0.9)), 2)
    try:
        await until(lambda: answers and answers[-1].json().get("model") == "xgboost:2")
    finally:
        done.set()
        await asyncio.gather(*asking)
    assert {a.status_code for a in answers} == {200}
    assert {a.json()["model"] for a in answers} == {"xgboost:1", "xgboost:2"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["corrupt", "foreign", "unknown feature"])
async def test_a_bad_model_file_is_refused_and_the_champion_stays(client, own, candidate, kind):
    files = {
        "corrupt": b"not a model",
        "foreign": write_card(candidate.export(), card(design="cv_inspection")),
        "unknown feature": write_card(
            candidate.export(), card(features=("moon_phase", *TABULAR[1:]))
        ),
    }
    await promote(own.config, files[kind], 3)

    async def refused():
        return (await client.get("/readyz")).json()["model_refused"]

    await until(refused)
    assert (await client.post("/score", json=EXAMPLE_TRANSACTION)).json()["model"] == "xgboost:1"
    await promote(own.config, write_card(candidate.export(), card(version=4)), 4)

    async def mended():
        return (await client.post("/score", json=EXAMPLE_TRANSACTION)).json()[
            "model"
        ] == "xgboost:4"

    await until(mended)


@pytest.mark.slow
async def test_a_champion_that_s3_did_not_return_is_requested_again(tmp_path, onnx):
    made = make_settings(tmp_path)
    every = Engines(made)
    try:
        nc = await connect(made, "test")
        await announce(nc, "fraud", 1)
        await nc.close()
        async with serving(made) as client:
            assert (await client.get("/readyz")).status_code == 503
            every.start("seaweedfs")

            async def stored():
                with suppress(OSError):
                    await asyncio.to_thread(put_served, made, onnx, "fraud", CHAMPION, 1)
                    return True

            await until(stored)

            async def ready():
                return (await client.get("/readyz")).status_code == 200

            await until(ready)
    finally:
        every.stop()


async def test_without_a_model_the_error_names_the_remedy(own, config):
    Lake(config).remove(["models"])
    async with serving(own.config) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        answer = await client.post("/score", json=EXAMPLE_TRANSACTION)
        assert answer.status_code == 503
        assert "whiteboard train fraud" in answer.json()["error"]


async def test_sagemaker_and_operations(client):
    assert (await client.get("/ping")).status_code == 200
    answer = await client.post("/invocations", json=EXAMPLE_TRANSACTION)
    assert answer.json()["decision"] in ("approve", "decline")
    text = (await client.get("/metrics")).text
    assert 'requests_total{route="/invocations",status="200"}' in text
    assert 'stage_duration_seconds_bucket{le="0.001",stage="infer"}' in text
    spec = (await client.get("/openapi.json")).json()
    body = spec["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == EXAMPLE_TRANSACTION


def test_serving_imports_no_training():
    code = (
        "import sys, services.fraud.serving.app\n"
        "heavy = {'torch', 'xgboost', 'mlflow', 'feast', 'sklearn', 'matplotlib', 'onnx'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
