"""Attacks by one service's account on what is another's; each must fail."""

import asyncio
import json
import logging

import orjson
import pytest
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from monitoring.sources import sources_path
from services.designs import DESIGNS
from services.fraud.reasons.report import fetch, open_bucket, store
from services.platform.design import accounts
from services.platform.models.names import ANNOUNCEMENTS, announced_version
from services.platform.models.promotion import ModelLifecycle, announce
from services.platform.models.promotion_log import append_record, read_history
from services.platform.models.served_model import ServedModel
from services.platform.retraining.commands import CONTROL
from services.platform.runtime.tasks import cancel_tasks
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_bucket, ensure_stream
from tests.conftest import card
from tests.integration.conftest import until
from tests.security.records import record

ACCOUNTS = accounts(DESIGNS)


async def refused(config, account: str, subject: str, data: bytes = b"{}") -> bool:
    """Whether a message of an account does not reach the stream of a subject."""
    mine = await connect(config.with_account(account), "attack")
    try:
        await mine.jetstream().publish(subject, data, timeout=0.4)
    except (NatsError, TimeoutError):
        return True
    finally:
        await mine.close()
    return False


async def test_only_the_operator_and_the_services_with_tokens_command_the_scheduler(config, nc):
    strangers = set(ACCOUNTS) - {"scorer", "inspector"}
    js = nc.jetstream()
    await ensure_stream(js, CONTROL, ["control.>"])
    before = (await js.stream_info(CONTROL)).state.last_seq
    command = "control.fraud", b'{"verb":"night"}'
    assert all(await asyncio.gather(*(refused(config, one, *command) for one in strangers)))
    assert (await js.stream_info(CONTROL)).state.last_seq == before


async def test_no_service_announces_a_model_or_writes_history(config, nc):
    await announce(nc, "fraud", 7)
    await append_record(nc.jetstream(), record())
    attacks = ((f"$KV.{ANNOUNCEMENTS}.fraud.champion", b'{"version":1}'), ("model.fraud", b"[]"))
    tried = [refused(config, account, *attack) for account in ACCOUNTS for attack in attacks]
    assert all(await asyncio.gather(*tried))
    bucket = await ensure_bucket(nc.jetstream(), ANNOUNCEMENTS)
    assert announced_version((await bucket.get("fraud.champion")).value) == 7


async def test_no_service_deletes_or_purges_a_stream(config, nc):
    async def attack(account: str) -> None:
        mine = await connect(config.with_account(account), "attack")
        js = mine.jetstream(timeout=0.4)
        for attempt in (js.delete_stream("FRAUD"), js.purge_stream("CV")):
            with pytest.raises((NatsError, TimeoutError)):
                await attempt
        await mine.close()

    await asyncio.gather(*map(attack, ACCOUNTS))
    for stream in ("FRAUD", "CV"):
        await nc.jetstream().stream_info(stream)


async def test_the_page_reads_the_reasons_that_it_shows(config, nc):
    report = {"decision_id": "d1", "reasons": []}
    await store(await open_bucket(nc.jetstream()), report)
    page = await connect(config.with_account("walkthrough"), "page")
    try:
        assert await fetch(page.jetstream(timeout=2.0), "d1") == report
    finally:
        await page.close()


async def answered(nc, subject: str, body: dict) -> dict:
    """What JetStream's API answers; empty: the account may not ask."""
    try:
        return json.loads((await nc.request(subject, orjson.dumps(body), timeout=0.4)).data)
    except (NatsError, TimeoutError):
        return {}


@pytest.mark.slow
async def test_no_service_copies_or_reroutes_a_stream(config, nc):
    """A stream that is changed could have the messages of another as its source."""
    js = nc.jetstream()
    await append_record(js, record())
    made = {name: one for name, one in ACCOUNTS.items() if one.makes or one.keeps}
    assert {"monitor", "scorer"} <= made.keys()
    for account, access in made.items():
        mine = await connect(config.with_account(account), "attack")
        for stream in access.makes:
            await ensure_stream(js, stream, [f"{stream.lower()}.>"])
        for bucket in access.keeps:
            await ensure_bucket(js, bucket)
        for stream in (*access.makes, *(f"KV_{bucket}" for bucket in access.keeps)):
            config_of = (await js.stream_info(stream)).config
            for change in (
                {"sources": [{"name": "MODEL_HISTORY"}]},
                {"republish": {"src": config_of.subjects[0], "dest": "control.>"}},
                {"subjects": [*config_of.subjects, "free.>"]},
            ):
                body = {k: v for k, v in config_of.as_dict().items() if v is not None} | change
                for verb in ("UPDATE", "CREATE"):
                    said = await answered(mine, f"$JS.API.STREAM.{verb}.{stream}", body)
                    assert not said or said["error"], (account, stream, change)
            assert (await js.stream_info(stream)).config == config_of
        await mine.close()


async def test_what_a_consumer_delivers_lands_in_no_stream_of_another(config, nc):
    """Who may publish to a stream and read it has NATS deliver its own words elsewhere."""
    js = nc.jetstream()
    await ensure_stream(js, CONTROL, ["control.>"])
    await ensure_bucket(js, ANNOUNCEMENTS)
    mine = await connect(config.with_account("inspection-worker"), "attack")
    await mine.jetstream().publish("cv.image.a", b'{"verb":"night"}')
    for target in ("control.fraud", f"$KV.{ANNOUNCEMENTS}.fraud.champion", "fraud.label.1"):
        push = {"name": "x", "deliver_subject": target, "ack_policy": "none"}
        await answered(mine, "$JS.API.CONSUMER.CREATE.CV.x", {"stream_name": "CV", "config": push})
        await asyncio.sleep(0.3)
        for stream in (CONTROL, f"KV_{ANNOUNCEMENTS}", "FRAUD"):
            assert (await js.stream_info(stream)).state.messages == 0, (target, stream)
        await answered(mine, "$JS.API.CONSUMER.DELETE.CV.x", {})
    await mine.close()


async def test_costs_rules_and_reasons_are_written_by_those_who_own_them(config):
    nc = await connect(config, "test")
    for bucket in ("FRAUD_COSTS", "rules", "fraud_reasons"):
        await ensure_bucket(nc.jetstream(), bucket)
    attacks = (
        ("analysts", "$KV.FRAUD_COSTS.costs"),
        ("review-desk", "$KV.FRAUD_COSTS.costs"),
        ("scorer", "$KV.rules.fraud"),
        ("scorer", "rules.fraud"),
        ("scorer", "$KV.fraud_reasons.x"),
        ("walkthrough", "control.fraud"),
    )
    assert all(await asyncio.gather(*(refused(config, *attack) for attack in attacks)))
    await nc.close()


async def test_no_service_reads_replies_to_another(config, nc):
    mine = await connect(config.with_account("shadow"), "attack")
    heard = []

    async def hear(message):
        heard.append(message)

    for subject in (">", "_INBOX.>", "_INBOX_scorer.>", "fraud.>"):
        await mine.subscribe(subject, cb=hear)
    await nc.publish("_INBOX_scorer.x", b"secret")
    await nc.flush()
    await asyncio.sleep(0.2)
    await mine.close()
    assert not heard


def test_no_service_writes_a_model_file(config):
    path = "models/fraud/champion.onnx"
    Lake(config).put(path, b"good")
    for account in ACCOUNTS:
        with pytest.raises(OSError, match=r"ACCESS_DENIED|403"):
            Lake(config.with_account(account)).put(path, b"approve everything")
    assert Lake(config).get(path) == b"good"


def test_a_lake_writer_writes_its_own_designs_tables_alone(config):
    lake = Lake(config.with_account("lake-writer"))
    lake.put("fraud/label/x", b"1")
    for path in ("cv/label/x", "reports/fraud/x.html", "fraud"):
        with pytest.raises(OSError, match=r"ACCESS_DENIED|403"):
            lake.put(path, b"1")


def test_monitors_keep_their_sources(config):
    for account, design in (("monitor", "fraud"), ("cv-monitor", "cv")):
        Lake(config.with_account(account)).put(sources_path(design), b"{}")
        assert Lake(config).get(sources_path(design)) == b"{}"
    Lake(config).remove(["monitor"])


@pytest.mark.parametrize("note", [b"[]", b"7", b'{"version": "1"}', b"\xff", b"{"])
async def test_a_bad_note_is_skipped_counted_and_logged(config, nc, note, caplog):
    bucket = await ensure_bucket(nc.jetstream(), ANNOUNCEMENTS)
    await bucket.put("fraud.champion", note)
    served = ServedModel(config, "fraud", lambda data: pytest.fail("loaded"))
    with caplog.at_level(logging.ERROR):
        watching = asyncio.create_task(served.watch(nc))
        await until(lambda: "not an announcement" in caplog.text or watching.done())
    assert not watching.done()
    await cancel_tasks(watching)
    assert await ModelLifecycle(config, "fraud").champion() is None


async def test_an_unreadable_row_does_not_block_the_history(config, nc, caplog):
    js = nc.jetstream()
    await append_record(js, record())
    for data in (b"[]", b"\xff", b'{"at": 1}'):
        await js.publish("model.fraud", data)
    await append_record(js, record(version=2))
    assert [one.version for one in await read_history(js, "fraud")] == [1, 2]
    assert caplog.text.count("of the history skipped") == 3


async def test_a_service_without_a_stream_gets_none(config, nc):
    with pytest.raises((NotFoundError, NatsError, TimeoutError)):
        await (
            (await connect(config.with_account("lake-writer"), "attack"))
            .jetstream(timeout=0.4)
            .stream_info("MODEL_HISTORY")
        )
    assert card().version == 1
