"""Published rules: versions, the scorer that follows them, and what it refuses."""

import asyncio

import pytest
from nats.js.errors import APIError

from infra.local.engines import engines, free_port
from services.fraud.ingestion.events import Transaction
from services.fraud.rules import store
from services.fraud.rules.files import Rules, shipped_rules
from services.fraud.rules.lists import list_text, reference
from services.fraud.rules.live import LiveRules
from services.fraud.rules.rule import Rule, RuleSet
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.platform.runtime.tasks import cancel_tasks
from services.platform.streaming.connection import connect
from tests.conftest import ended, start_engine
from tests.integration.conftest import until
from tests.unit.fraud.test_rules import vector

TRANSACTION = Transaction(**EXAMPLE_TRANSACTION)


@pytest.fixture
async def client(config, tmp_path):
    ports = {name: free_port() for name in ("nats_port", "nats_http_port")}
    own = config.model_copy(update={"home": tmp_path, **ports})
    [nats] = [one for one in engines(own) if one.name == "nats"]
    running = await asyncio.to_thread(start_engine, nats, tmp_path)
    nc = await connect(own, "test")
    yield nc
    await nc.close()
    running.terminate()
    ended(running)


def rules(when="true", **lists):
    texts = {name: list_text(name, values) for name, values in lists.items()}
    references = {name: reference(text) for name, text in texts.items()}
    made = Rule(id="one", when=when, action="decline", reason="why", owner="me")
    by_digest = {references[name].digest: text for name, text in texts.items()}
    return Rules(RuleSet(rules=(made,), lists=references), by_digest)


async def test_a_scorer_takes_a_set_and_keeps_it_over_a_restart_without_nats(client, tmp_path):
    folder = tmp_path / "scorer"
    live = LiveRules(folder)
    assert live.rules.label == shipped_rules().rule_set.label(0)
    watching = asyncio.create_task(live.watch(client))
    stolen = rules("device_id in lists.stolen", stolen=["d126"])
    record = await store.publish(client, stolen, [])
    assert record.version == 1
    await until(lambda: live.rules.label.startswith("1:"))
    assert [one.id for one in live.fired(TRANSACTION, vector(), 0.1)] == ["one"]
    await cancel_tasks(watching)
    assert LiveRules(folder).rules.label == live.rules.label
    assert LiveRules(folder).fired(TRANSACTION, vector(), 0.1)


async def test_a_poisoned_set_is_refused_and_the_old_one_stays(client, tmp_path):
    live = LiveRules(tmp_path / "scorer")
    js = client.jetstream()
    await store.publish(client, rules(), [])
    await live.follow(js)
    before = live.rules
    await store.publish(client, rules("no_feature > 1.0"), ["unchecked"])
    await live.follow(js)
    assert live.rules is before
    assert "unknown name 'no_feature'" in live.readiness()["rules_refused"]
    bucket = await js.key_value(store.BUCKET)
    await bucket.put("fraud", b"{nonsense")
    await live.follow(js)
    assert live.rules is before
    assert "announced set is none" in live.refused


async def test_the_history_holds_every_set_and_no_version_is_made_twice(client):
    js = client.jetstream()
    await store.publish(client, rules(), ["first"])
    await store.publish(client, rules("false"), ["slow"], store.RulesEvent.refused)
    third = await store.publish(client, rules("amount > 1.0"), [])
    records = await store.history(js)
    assert [one.version for one in records] == [1, 2, 3]
    assert [one.event for one in records] == ["published", "refused", "published"]
    assert third.before == 1
    assert (await store.current(js)).version == 3
    with pytest.raises(APIError):
        await js.delete_msg(store.HISTORY_STREAM, 1)
    with pytest.raises(APIError):
        await js.publish("rules.fraud", b"{}", headers={"Nats-Expected-Last-Sequence": "1"})


async def test_a_lower_version_never_acts_after_a_higher_one(client, monkeypatch):
    """A's announcement is late: B's set is stored and announced before."""
    js, made = client.jetstream(), []
    ensure = store.ensure_bucket

    async def late(js, name):
        monkeypatch.setattr(store, "ensure_bucket", ensure)
        made.append(await store.publish(client, rules("amount > 2.0"), ["B"]))
        return await ensure(js, name)

    monkeypatch.setattr(store, "ensure_bucket", late)
    with pytest.raises(ValueError, match=r"version 2 was published meanwhile.*again"):
        await store.publish(client, rules("amount > 1.0"), ["A"])
    assert [one.version for one in await store.history(js)] == [1, 2]
    assert made[0].version == (await store.current(js)).version == 2


async def test_two_rows_at_once_are_a_conflict_that_says_what_to_do(client, monkeypatch):
    last_seq = store.stored.ensure_history

    async def overtaken(js, *arguments):
        monkeypatch.setattr(store.stored, "ensure_history", last_seq)
        found = await last_seq(js, *arguments)
        await store.publish(client, rules("amount > 2.0"), ["B"])
        return found

    monkeypatch.setattr(store.stored, "ensure_history", overtaken)
    with pytest.raises(ValueError, match=r"version 1 was published meanwhile.*again"):
        await store.publish(client, rules("amount > 1.0"), ["A"])
    assert (await store.current(client.jetstream())).version == 1


async def test_a_rule_is_retired_from_the_set_that_acts_alone(client):
    shipped = shipped_rules()
    without = [
        shipped.rule_set.model_copy(update={"rules": shipped.rule_set.rules[n:]}) for n in (1, 2)
    ]
    retired = store.RulesEvent.retired
    await store.publish(client, Rules(without[0], shipped.texts), [], retired)
    await store.publish(client, rules("amount > 1.0"), ["B"])
    with pytest.raises(ValueError, match=r"version 2 was published meanwhile.*again"):
        await store.publish(client, Rules(without[1], shipped.texts), [], retired)
    assert (await store.current(client.jetstream())).version == 2


async def test_a_set_whose_publisher_was_killed_acts_before_the_next(client, monkeypatch):
    js = client.jetstream()

    async def killed(*_):
        raise asyncio.CancelledError

    with monkeypatch.context() as ended:
        ended.setattr(store, "ensure_bucket", killed)
        with pytest.raises(asyncio.CancelledError):
            await store.publish(client, rules("amount > 1.0"), ["A"])
    assert await store.current(js) is None
    refused = await store.publish(client, rules("false"), [], store.RulesEvent.refused)
    assert (refused.before, (await store.current(js)).version) == (1, 1)


async def test_a_damaged_folder_gives_the_shipped_rules(tmp_path):
    (tmp_path / "rules.json").write_text("{")
    assert LiveRules(tmp_path).rules.label == shipped_rules().rule_set.label(0)
