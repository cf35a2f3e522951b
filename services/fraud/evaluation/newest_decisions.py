"""The walkthrough's newest decisions: why each was made, and a person's verdict on one."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from services.fraud.features.states import FEATURE_SET
from services.fraud.ingestion.events import (
    DECISIONS_STREAM,
    LABEL,
    DecisionEvent,
    LabelEvent,
    VerdictEvent,
    read_published,
    subject,
)
from services.fraud.reasons.report import fetch
from services.fraud.review.queue import ReviewQueue
from services.platform.settings import Settings
from services.platform.streaming.connection import connect
from services.platform.streaming.stored import newest_messages
from services.platform.walkthrough import ComparedValue, DecisionView

NAME = "walkthrough"
_LABELS = ("fraud", "genuine")
# Decisions that "usual" is computed from.
_COMPARED = 200
# A reader of the page takes a minute or two before labelling; read so many at once.
_LABELLED, _CHUNK = 10_000, 500
_MOST_UNUSUAL = 8
_NOT_WRITTEN = "Its reasons are not written. They come within a second: read again."


async def newest(config: Settings, count: int) -> list[DecisionView]:
    """The newest decisions, newest first, each with its most unusual values.

    Stopped payments are one in a hundred, so those among the newest 200 are in it, too, with their
    reasons.

    Raises:
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


async def label(config: Settings, identity: str, said: str) -> str:
    """Take a person's verdict: of a case under review as an analyst's, of any other as its label.

    Returns:
        What it did, in a sentence.

    Raises:
        ValueError: it is no label.
        LookupError: the decision is not among the newest.
        OSError: NATS does not answer.
    """
    if said not in _LABELS:
        raise ValueError(f"label: {said[:80]!r} is not one of {', '.join(_LABELS)}")
    nc = await connect(config, NAME)
    try:
        js = nc.jetstream()
        event = await _find(js, identity)
        if event is None:
            raise LookupError(f"decision {identity} is not among the newest {_LABELLED:,}")
        decided = await ReviewQueue(js).decide_waiting(
            identity, "fraud" if said == "fraud" else "genuine", NAME
        )
        # A verdict of fraud has a label of its own. A payment that was called genuine was made, so
        # that it is fraud is news.
        if decided is not None and decided.verdict in ("fraud", said):
            return _decided(decided, said)
        message = LabelEvent.of(event.transaction, said == "fraud")
        await js.publish(
            subject(LABEL, message, config.shards),
            message.model_dump_json().encode(),
            headers={"Nats-Msg-Id": message.message_id},
        )
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("the stream did not take the label: send it again") from error
    finally:
        await nc.close()
    return f"Labelled {said}: the label is in the stream."


def _decided(verdict: VerdictEvent, said: str) -> str:
    """What became of a case that is decided, by this person or by an analyst before."""
    outcome = f"the payment's outcome is {verdict.outcome}."
    if (verdict.verdict, verdict.by) == (said, NAME):
        return f"The case is decided: {outcome}"
    return f"The case was decided already, as {verdict.verdict} by {verdict.by}: {outcome}"


async def _find(js: JetStreamContext, identity: str) -> DecisionEvent | None:
    """A decision among the newest, by its id."""
    state = (await js.stream_info(DECISIONS_STREAM)).state
    oldest = max(state.first_seq, state.last_seq - _LABELLED + 1, 1)
    for last in range(state.last_seq, oldest - 1, -_CHUNK):
        seqs = range(last, max(last - _CHUNK, oldest - 1), -1)
        messages = await asyncio.gather(*(js.get_msg(DECISIONS_STREAM, seq) for seq in seqs))
        for data in (message.data or b"" for message in messages):
            if identity.encode() in data:
                event = _parse(data)
                if event is not None and event.decision_id == identity:
                    return event
    return None


async def _newest_events(nc: Client) -> list[tuple[int, DecisionEvent]]:
    try:
        messages = await newest_messages(nc.jetstream(), DECISIONS_STREAM, _COMPARED)
    except (NatsError, TimeoutError) as error:
        raise ConnectionError("the stream of decisions does not answer") from error
    events = [(seq, _parse(message.data or b"")) for seq, message in messages]
    return [(seq, event) for seq, event in events if event is not None]


def _parse(data: bytes) -> DecisionEvent | None:
    """A decision; None if it is not one."""
    return read_published(DecisionEvent, data, NAME)


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
    stopped = event.decision != "approve"
    values = _unusual(np.array(_floats(event.features)), usual) if _is_current(event) else []
    return DecisionView(
        id=event.decision_id,
        at=t.event_time.isoformat(),
        title=f"{t.amount_minor / 100:,.2f} {t.currency} at {t.merchant_id}",
        decision=event.decision,
        stopped=stopped,
        score=event.score,
        threshold=event.threshold,
        model=event.model,
        reason="decided without the online store" if event.degraded else "",
        reasons=reasons,
        note=_NOT_WRITTEN if stopped and not reasons else "",
        facts=facts,
        values=values,
        labels=_LABELS,
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
