"""The walkthrough's views of fraud detection: follow one payment, newest decisions, label one."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np
import orjson
import pyarrow.compute as pc
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from redis.exceptions import RedisError

from features.online import OnlineReader
from features.redis_connection import RedisConnection
from features.spec import SEQ
from services.fraud.features.states import FEATURE_SET, STATES
from services.fraud.ingestion.events import (
    DECISION,
    DECISIONS_STREAM,
    ENTITIES,
    LABEL,
    STREAM,
    TX,
    DecisionEvent,
    LabelEvent,
    Outcome,
    Transaction,
    TransactionEvent,
    shard,
    subject,
)
from services.fraud.ingestion.tables import DECISIONS_TABLE, TRANSACTIONS_TABLE
from services.fraud.reasons.report import fetch
from services.fraud.service import SCORER
from services.platform.hooks import ComparedValue, DecisionView, Mark
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.stored import newest_messages

NAME = "walkthrough"
# Decisions that "usual" is computed from, and how long each stop of a payment is waited for.
_COMPARED = 200
_READABLE_S, _LAKE_S = 20.0, 60.0
_MOST_UNUSUAL = 8
# Stages of the scorer's Server-Timing header: the box where each happens, and what happens.
_STAGES = {
    "validate": ("scorer", "fields are checked"),
    "fetch": ("redis", "states are fetched, one round trip"),
    "read": ("scorer", "features are computed from the states"),
    "infer": ("model", "the model scores the features"),
    "rules": ("scorer", "rules are evaluated"),
    "encode": ("scorer", "decided, and queued for the stream"),
}
_TIMING = re.compile(r"(\w+);dur=([\d.]+)")


def server_timing(header: str) -> dict[str, float]:
    """Milliseconds by stage of a `Server-Timing` header.

    >>> server_timing("validate;dur=0.071, fetch;dur=0.480")
    {'validate': 0.071, 'fetch': 0.48}
    """
    return {name: float(value) for name, value in _TIMING.findall(header)}


async def follow(config: Settings) -> AsyncIterator[Mark]:
    """Send one payment of the newest customer, and tell where it arrives and when.

    Raises:
        ValueError: no payment was made yet, or the scorer refuses this one.
        OSError: an engine or the scorer does not answer.
    """
    nc = await connect(config, NAME)
    redis = RedisConnection(config.redis)
    try:
        payment = await _payment(nc)
        lake = Lake(config)
        since = payment.event_time.timestamp()
        tables = (DECISIONS_TABLE, TRANSACTIONS_TABLE)
        known = {t: set(await asyncio.to_thread(lake.files, t, since)) for t in tables}
        decided = await nc.subscribe(f"{DECISION}.{shard(payment.customer_id, config.shards)}")
        begin = perf_counter()
        outcome, marks = await _scored(config, payment, begin)
        for mark in marks:
            yield mark
        yield await _published(decided, payment, begin)
        yield await _event(nc, config, payment, outcome, begin)
        yield await _readable(redis, nc, payment, begin)
        async for mark in _stored(lake, known, payment, since, begin):
            yield mark
    finally:
        redis.close()
        await nc.close()


async def newest(config: Settings, count: int) -> list[DecisionView]:
    """The newest decisions, newest first, each with its most unusual values.

    Stopped payments are one in a hundred, so those among the newest 200 are in it, too, with their
    reasons.

    Raises:
        ValueError: nothing was decided yet.
        OSError: NATS does not answer.
    """
    nc = await connect(config, NAME)
    try:
        events = await _newest_events(nc)
        shown = [e for i, (_, e) in enumerate(events) if i < count or e.decision != "approve"]
        stopped = [e.decision_id for e in shown if e.decision != "approve"]
        found = await asyncio.gather(*(_reasons(nc, identity) for identity in stopped))
    finally:
        await nc.close()
    reasons = dict(zip(stopped, found, strict=True))
    usual = _usual([_floats(e.features) for _, e in events if _is_current(e)])
    return [_view(event, usual, reasons.get(event.decision_id, ())) for event in shown]


def _usual(vectors: list[list[float]]) -> np.ndarray:
    """(3, F) 5 %, 50 % and 95 % of vectors; NaN where none has a value."""
    usual = np.full((3, len(FEATURE_SET.features)), np.nan)
    if vectors:
        made = np.array(vectors)
        known = ~np.isnan(made).all(axis=0)
        usual[:, known] = np.nanpercentile(made[:, known], (5, 50, 95), axis=0)
    return usual


async def _reasons(nc: Client, identity: str) -> tuple[str, ...]:
    """Reasons of a stopped payment, in words; none while they are not written."""
    try:
        report = await fetch(nc.jetstream(), identity) or {}
    except (NatsError, TimeoutError):
        return ()
    rules = [f"rule: {name}" for name in report.get("fired") or ()]
    return (*rules, *(_worded(reason) for reason in report.get("reasons", ())))


def _worded(reason: Mapping[str, Any]) -> str:
    texts = [feature["text"] for feature in reason["features"]] or [reason["text"]]
    return f"{reason['group']}, {reason['contribution']:+.2f} log-odds: {'; '.join(texts)}"


async def label(config: Settings, identity: str, said: str) -> None:
    """Publish an analyst's label of a decision.

    Raises:
        ValueError: it is not among the newest decisions.
        OSError: NATS does not answer.
    """
    nc = await connect(config, NAME)
    try:
        known = {event.decision_id: event for _, event in await _newest_events(nc)}
        if identity not in known:
            raise ValueError(f"decision {identity} is not among the newest {_COMPARED}")
        payment = known[identity].transaction
        parties = payment.model_dump(include=set(LabelEvent.model_fields) - {"fraud"})
        message = LabelEvent(**parties, fraud=said == "fraud")
        await nc.jetstream().publish(
            subject(LABEL, message, config.shards), message.model_dump_json().encode()
        )
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("the stream did not take the label: send it again") from error
    finally:
        await nc.close()


async def _payment(nc: Client) -> Transaction:
    """A payment like the newest one, of the same customer, a second later in event time."""
    try:
        message = await nc.jetstream().get_last_msg(STREAM, f"{TX}.>")
    except NotFoundError:
        raise ValueError("no payment was made yet: start simulated traffic") from None
    last = TransactionEvent.model_validate_json(message.data or b"")
    fields = last.model_dump(exclude={"outcome", "transaction_id", "event_time"})
    later = min(last.event_time + timedelta(seconds=1), datetime.now(UTC) + timedelta(hours=23))
    identity = f"{NAME}-{secrets.token_hex(6)}"
    return Transaction(**fields, transaction_id=identity, event_time=later)


async def _scored(
    config: Settings, payment: Transaction, begin: float
) -> tuple[Outcome, list[Mark]]:
    """The scorer's decision, and its way."""
    url = f"{SCORER.url(config)}{SCORER.route}"
    amount = f"{payment.amount_minor / 100:,.2f} {payment.currency}"
    marks = [Mark("gateway", "sent", 0.0, None, f"{payment.transaction_id}: {amount}")]
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http:
            data = payment.model_dump_json()
            async with http.post(url, data=data) as answer:
                body = orjson.loads(await answer.read())
                took = _since(begin)
                stages = server_timing(answer.headers.get("Server-Timing", ""))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ConnectionError(f"the scorer does not answer: {error}") from error
    if "decision" not in body:
        raise ValueError(f"the scorer refused it: {body.get('error', body)}")
    at = max(took - sum(stages.values()), 0.0) / 2
    for name, duration in stages.items():
        box, stage = _STAGES.get(name, ("scorer", name))
        marks.append(Mark(box, stage, at, duration))
        at += duration
    detail = f"{body['decision']}, score {body['score']:.4f} against {body['threshold']:.4f}"
    detail += ", degraded" if body["degraded"] else ""
    marks.append(Mark("gateway", "answered", took, took, f"{detail}, by {body['model']}"))
    return body["decision"], marks


async def _published(decided: Subscription, payment: Transaction, begin: float) -> Mark:
    end = perf_counter() + _READABLE_S
    while (left := end - perf_counter()) > 0:
        try:
            message = await decided.next_msg(timeout=left)
        except TimeoutError:
            break
        if payment.transaction_id.encode() in message.data:
            detail = f"subject {message.subject}, {len(message.data):,} bytes"
            return Mark("nats", "decision is in the stream", _since(begin), None, detail)
    return Mark("scorer", "the decision waits in the outbox", _since(begin))


async def _event(
    nc: Client, config: Settings, payment: Transaction, outcome: Outcome, begin: float
) -> Mark:
    """Publish what happened, as the gateway does."""
    event = TransactionEvent(**dict(payment), outcome=outcome)
    sent = perf_counter()
    try:
        where = subject(TX, event, config.shards)
        ack = await nc.jetstream().publish(where, event.model_dump_json().encode())
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("the stream does not take the event") from error
    took = (perf_counter() - sent) * 1e3
    detail = f"sequence {ack.seq:,}, flushed to disk"
    return Mark("nats", "event is in the stream", _since(begin), took, detail)


async def _readable(redis: RedisConnection, nc: Client, payment: Transaction, begin: float) -> Mark:
    """Wait until the customer's state holds the event."""
    seq = (await nc.jetstream().get_last_msg(STREAM, f"{TX}.>")).seq or 0
    reader = OnlineReader(redis, STATES[:1])
    keys = {entity: getattr(payment, entity) for entity in ENTITIES}
    end = perf_counter() + _READABLE_S
    while perf_counter() < end:
        try:
            row = (await reader.read(keys, 1.0))[STATES[0].name]
        except (RedisError, OSError, TimeoutError):
            row = np.zeros((1, SEQ + 1))
        found = float(row.item(SEQ))
        if found >= seq or await _holds(nc, int(found), payment):
            detail = f"customer {payment.customer_id}, sequence {found:,.0f}"
            return Mark("feature-worker", "state is readable", _since(begin), None, detail)
        await asyncio.sleep(0.005)
    return Mark("feature-worker", "the state does not hold it yet", _since(begin))


async def _holds(nc: Client, seq: int, payment: Transaction) -> bool:
    """Whether a state's last event is this payment, where others came after it."""
    if seq <= 0:
        return False
    try:
        message = await nc.jetstream().get_msg(STREAM, seq)
    except (NatsError, TimeoutError):
        return False
    return payment.transaction_id.encode() in (message.data or b"")


async def _stored(
    lake: Lake, known: Mapping[str, set[str]], payment: Transaction, since: float, begin: float
) -> AsyncIterator[Mark]:
    """Wait until both rows are in the lake."""
    wanted = pc.field("transaction_id") == payment.transaction_id
    opened = {table: set(files) for table, files in known.items()}
    end = perf_counter() + _LAKE_S
    while opened and perf_counter() < end:
        for table in list(opened):
            files = await asyncio.to_thread(lake.files, table, since)
            unread = [file for file in files if file not in opened[table]]
            rows = await asyncio.to_thread(lake.read_files, unread, ["transaction_id"], wanted)
            opened[table] |= set(unread)
            if rows is not None and len(rows):
                del opened[table]
                yield Mark("lake", f"row in {table}", _since(begin), None, unread[-1])
        await asyncio.sleep(0.25)
    for table in opened:
        yield Mark("lake-writer", f"no row in {table} yet", _since(begin))


async def _newest_events(nc: Client) -> list[tuple[int, DecisionEvent]]:
    try:
        messages = await newest_messages(nc.jetstream(), DECISIONS_STREAM, _COMPARED)
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("the stream of decisions does not answer") from error
    if not messages:
        raise ValueError("nothing was decided yet: start simulated traffic")
    return [(seq, DecisionEvent.model_validate_json(m.data or b"")) for seq, m in messages]


def _is_current(event: DecisionEvent) -> bool:
    return event.feature_set == FEATURE_SET.hash


def _floats(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _view(event: DecisionEvent, usual: np.ndarray, reasons: tuple[str, ...]) -> DecisionView:
    t = event.transaction
    facts = {
        "transaction": t.transaction_id,
        "customer": t.customer_id,
        "merchant": t.merchant_id,
        "device": t.device_id or "none",
        "IP address": t.ip or "none",
        "items": ", ".join(item.category for item in t.cart[:6]) or "none",
    }
    values = _unusual(np.array(_floats(event.features)), usual) if _is_current(event) else []
    return DecisionView(
        id=event.decision_id,
        at=t.event_time.isoformat(),
        title=f"{t.amount_minor / 100:,.2f} {t.currency} at {t.merchant_id}",
        decision=event.decision,
        stopped=event.decision != "approve",
        score=event.score,
        threshold=event.threshold,
        model=event.model,
        reason="decided without the online store" if event.degraded else "",
        reasons=reasons,
        facts=facts,
        values=values,
    )


def _unusual(vector: np.ndarray, usual: np.ndarray) -> list[ComparedValue]:
    """The values farthest from their median, in units of the 5 % to 95 % range."""
    width = np.maximum(usual[2] - usual[0], 1e-9)
    far = np.abs(vector - usual[1]) / width
    order = np.argsort(-np.nan_to_num(far, nan=-1.0))[:_MOST_UNUSUAL]
    names = FEATURE_SET.features
    return [
        ComparedValue(names[i], _number(vector[i]), tuple(float(x) for x in usual[:, i]))  # type: ignore[arg-type]
        for i in order
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _since(begin: float) -> float:
    return (perf_counter() - begin) * 1e3
