"""The walkthrough's view of one payment: where it arrives, and when."""

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

from features.cluster.clients import open_link
from features.online.reader import OnlineReader
from features.redis_connection import RedisLink
from features.spec import SEQ
from services.fraud.evaluation.aftermath import aftermath
from services.fraud.features.states import STATES
from services.fraud.ingestion.events import (
    DECISION,
    ENTITIES,
    STREAM,
    TX,
    Outcome,
    Transaction,
    TransactionEvent,
    shard,
    subject,
)
from services.fraud.ingestion.tables import DECISIONS_TABLE, TRANSACTIONS_TABLE
from services.fraud.service import SCORER
from services.platform.runtime.tokens import client_headers
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.walkthrough import Mark

NAME = "walkthrough"
# How long each stop of a payment is waited for.
_READABLE_S, _LAKE_S = 20.0, 60.0
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
    redis = open_link(config)
    try:
        payment = await _payment(nc)
        lake = Lake(config)
        since = payment.event_time.timestamp()
        tables = (DECISIONS_TABLE, TRANSACTIONS_TABLE)
        known = {t: set(await asyncio.to_thread(lake.files, t, since)) for t in tables}
        decided = await nc.subscribe(f"{DECISION}.{shard(payment.customer_id, config.shards)}.*")
        begin = perf_counter()
        decision, marks = await _scored(config, payment, begin)
        for mark in marks:
            yield mark
        yield await _published(decided, payment, begin)
        yield await _event(nc, config, payment, decision["decision"], begin)
        yield await _readable(redis, nc, payment, begin)
        async for mark in aftermath(nc.jetstream(), decision, payment.amount_minor, begin):
            yield mark
        async for mark in _stored(lake, known, payment, since, begin):
            yield mark
    finally:
        redis.close()
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
) -> tuple[dict[str, Any], list[Mark]]:
    """The scorer's answer, and its way."""
    url = f"{SCORER.url(config)}{SCORER.route}"
    amount = f"{payment.amount_minor / 100:,.2f} {payment.currency}"
    marks = [Mark("gateway", "sent", 0.0, None, f"{payment.transaction_id}: {amount}")]
    timeout = aiohttp.ClientTimeout(total=10)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http:
            data = payment.model_dump_json()
            async with http.post(url, data=data, headers=client_headers(config)) as answer:
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
    return body, marks


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


async def _readable(redis: RedisLink, nc: Client, payment: Transaction, begin: float) -> Mark:
    """Wait until the customer's state holds the event."""
    seq = (await nc.jetstream().get_last_msg(STREAM, f"{TX}.>")).seq or 0
    reader = OnlineReader(redis, STATES[:1])
    keys = {entity: getattr(payment, entity) for entity in ENTITIES}
    end = perf_counter() + _READABLE_S
    while perf_counter() < end:
        try:
            row = (await reader.read(keys, 1.0))[STATES[0].name]
        except (RedisError, OSError, TimeoutError, KeyError):  # KeyError: its node is away
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


def _since(begin: float) -> float:
    return (perf_counter() - begin) * 1e3
