"""The review queue: a JetStream work queue whose cases are leased to analysts.

A case is one message on a subject of its own. A lease is a delivery that JetStream repeats unless
it is acknowledged in time, so a killed analyst or service loses nothing. The verdict is published
before the case is acknowledged, and the stream takes only the first on its subject: killed in
between, the case is delivered again and found decided.
"""

import base64
import hmac
import time
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import orjson
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext, api
from nats.js.errors import APIError, BadRequestError, NotFoundError

from services.fraud.ingestion.events import (
    CASE,
    REVIEWS_STREAM,
    VERDICT,
    VERDICTS_STREAM,
    ReviewCase,
    Verdict,
    VerdictEvent,
    parse_published,
    read_published,
)
from services.fraud.ingestion.tables import VERDICTS_TABLE
from services.platform.storage.lake import Lake

CONSUMER = "analysts"
# A lease is over before JetStream delivers its case again.
LEASE_S, _ACK_WAIT_S = 110.0, 120.0
# JetStream's error for a message whose subject has one already.
_WRONG_LAST_SEQUENCE = 10071
# JetStream's error for a message that is to be deleted and is not there.
_NO_MESSAGE = 10057
_ONLY_ONE = {"Nats-Expected-Last-Subject-Sequence": "0"}
TIMEOUT = "timeout"


class LeaseLost(ValueError):
    """The lease has expired, its token is not valid, or the case is decided."""


@dataclass(frozen=True)
class Lease:
    """A case that an analyst works on.

    Attributes:
        case: The case.
        reply: Subject that acknowledges the delivery.
        until: When the lease ends, seconds since the epoch.
        waited_s: From the case's arrival until the lease.
    """

    case: ReviewCase
    reply: str
    until: float
    waited_s: float

    def token(self, key: str) -> str:
        """The lease as a signed text, so that any process can take its verdict.

        Compressed, because the largest case would not fit into a request.
        """
        data = orjson.dumps(
            {
                "case": self.case.model_dump(mode="json"),
                "reply": self.reply,
                "until": self.until,
                "waited_s": self.waited_s,
            }
        )
        packed = zlib.compress(data)
        return f"{base64.urlsafe_b64encode(packed).decode()}.{_signature(key, packed)}"

    @classmethod
    def of_token(cls, token: str, key: str) -> "Lease":
        """The lease of a token. LeaseLost if it is not one of ours."""
        encoded, _, signature = token.partition(".")
        try:
            packed = base64.urlsafe_b64decode(encoded.encode())
            if not hmac.compare_digest(_signature(key, packed).encode(), signature.encode()):
                raise LeaseLost("the token is not valid: GET /reviews/next gives one")
            found = orjson.loads(zlib.decompress(packed))
            case = ReviewCase.model_validate(found.pop("case"), strict=False, extra="ignore")
        except (ValueError, KeyError, zlib.error) as error:
            if isinstance(error, LeaseLost):
                raise
            raise LeaseLost("the token is not valid: GET /reviews/next gives one") from None
        return cls(case=case, **found)


def _signature(key: str, data: bytes) -> str:
    return hmac.new(key.encode(), data, "sha256").hexdigest()


class ReviewQueue:
    """The queue of one installation."""

    def __init__(self, js: JetStreamContext) -> None:
        """A queue that exists: see `open`."""
        self._js = js
        self._analysts: JetStreamContext.PullSubscription | None = None

    @classmethod
    async def open(cls, js: JetStreamContext) -> "ReviewQueue":
        """The queue, created unless it exists. nats.errors.Error if NATS is away."""
        try:
            await js.stream_info(REVIEWS_STREAM)
        except NotFoundError:
            await js.add_stream(
                name=REVIEWS_STREAM,
                subjects=[f"{CASE}.>"],
                retention=api.RetentionPolicy.WORK_QUEUE,
                storage=api.StorageType.FILE,
            )
        config = api.ConsumerConfig(
            durable_name=CONSUMER,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_S,
            max_ack_pending=10_000,
        )
        await js.add_consumer(REVIEWS_STREAM, config)
        return cls(js)

    async def close(self) -> None:
        """End the subscription that `take` began. nats.errors.Error if NATS is away."""
        if self._analysts is not None:
            await self._analysts.unsubscribe()
            self._analysts = None

    async def add(self, case: ReviewCase) -> None:
        """Add a case, unless it is in the queue."""
        data = case.model_dump_json().encode()
        await self._publish_first(f"{CASE}.{case.decision_id}", data)

    async def backlog(self) -> int:
        """Cases in the queue or in work."""
        return int((await self._js.stream_info(REVIEWS_STREAM)).state.messages)

    async def take(self, max_wait_s: float) -> Lease | None:
        """Lease the oldest case; None if none arrives within `max_wait_s`."""
        if self._analysts is None:
            self._analysts = await self._js.pull_subscribe_bind(CONSUMER, REVIEWS_STREAM)
        end = time.monotonic() + max_wait_s
        while (left := end - time.monotonic()) > 0:
            try:
                [message] = await self._analysts.fetch(1, timeout=left)
            except (NatsTimeout, TimeoutError):
                return None
            now = time.time()
            case = _parse(message.data)
            if case is None or await self._stored(case.decision_id) is not None:
                await message.ack_sync()
                continue
            waited = now - message.metadata.timestamp.timestamp()
            return Lease(case, message.reply, now + LEASE_S, max(waited, 0.0))
        return None

    async def decide(self, lease: Lease, verdict: Verdict, by: str) -> VerdictEvent:
        """Publish a verdict and remove the case. LeaseLost if another was first.

        It may be repeated: the stored verdict is returned if it is the same by the same person.
        """
        if time.time() > lease.until:
            raise LeaseLost("the lease has expired: another analyst may have the case")
        event = _verdict(lease.case, verdict, _outcome(verdict), lease.waited_s, by)
        first = await self._publish_first(_subject(event.decision_id), _json(event))
        await self._js._nc.request(lease.reply, b"+ACK", timeout=5.0)
        if first:
            return event
        stored = parse_published(VerdictEvent, await self._stored(event.decision_id) or b"{}")
        if (stored.verdict, stored.by) != (verdict, by):
            raise LeaseLost("the case is decided already")
        return stored

    async def decide_waiting(
        self, decision_id: str, verdict: Verdict, by: str
    ) -> VerdictEvent | None:
        """Decide a case by its id, leased or not; returns the verdict that counts.

        It is another's if that was first; the lease, if there is one, is lost. None if there is no
        verdict: the case is not in the queue, or its time ran out.
        """
        try:
            message = await self._js.get_last_msg(REVIEWS_STREAM, f"{CASE}.{decision_id}")
        except NotFoundError:
            return await self._verdict_on(decision_id)
        case = _parse(message.data or b"")
        if case is None:
            return None
        waited_s = (datetime.now(UTC) - _stored_at(message)).total_seconds()
        event = _verdict(case, verdict, _outcome(verdict), waited_s, by)
        first = await self._publish_first(_subject(decision_id), _json(event))
        await self._remove(message)
        return event if first else await self._verdict_on(decision_id)

    async def close_overdue(self, max_age_s: float) -> int:
        """Decide cases whose time ran out by their default; returns how many."""
        closed = 0
        while True:
            try:
                oldest = await self._js.get_msg(
                    REVIEWS_STREAM, seq=1, next=True, subject=f"{CASE}.>"
                )
            except NotFoundError:
                return closed
            age = (datetime.now(UTC) - _stored_at(oldest)).total_seconds()
            if age <= max_age_s:
                return closed
            case = _parse(oldest.data or b"")
            if case is not None:
                event = _verdict(case, None, case.otherwise, age, TIMEOUT)
                closed += await self._publish_first(_subject(event.decision_id), _json(event))
            await self._remove(oldest)

    async def _remove(self, case: api.RawStreamMsg) -> None:
        """Remove a case, unless it is gone: it was acknowledged meanwhile."""
        try:
            await self._js.delete_msg(REVIEWS_STREAM, case.seq or 0)
        except APIError as error:
            if error.err_code != _NO_MESSAGE:
                raise

    async def _verdict_on(self, decision_id: str) -> VerdictEvent | None:
        """An analyst's stored verdict on a case, None if none decided it."""
        stored = await self._stored(decision_id)
        if stored is None:
            return None
        event = parse_published(VerdictEvent, stored)
        return event if event.verdict is not None else None

    async def _stored(self, decision_id: str) -> bytes | None:
        """The stored verdict on a case, None if there is none."""
        try:
            stored = await self._js.get_last_msg(VERDICTS_STREAM, _subject(decision_id))
        except NotFoundError:
            return None
        return stored.data

    async def _publish_first(self, subject: str, data: bytes) -> bool:
        """Publish unless the subject has a message; returns whether it was published."""
        try:
            await self._js.publish(subject, data, headers=_ONLY_ONE)
        except (BadRequestError, APIError) as error:
            if error.err_code != _WRONG_LAST_SEQUENCE:
                raise
            return False
        return True


def _outcome(verdict: Verdict) -> str:
    return "decline" if verdict == "fraud" else "approve"


def _verdict(
    case: ReviewCase, verdict: Verdict | None, outcome: str, waited_s: float, by: str
) -> VerdictEvent:
    return VerdictEvent(
        decision_id=case.decision_id,
        transaction_id=case.transaction.transaction_id,
        event_time=case.transaction.event_time,
        verdict=verdict,
        outcome=outcome,
        waited_s=waited_s,
        by=by,
        transaction=case.transaction,
    )


def _subject(decision_id: str) -> str:
    return f"{VERDICT}.{decision_id}"


def _json(event: VerdictEvent) -> bytes:
    return event.model_dump_json().encode()


def _parse(data: bytes) -> ReviewCase | None:
    """A case; None if it is not one, which only another version can have published."""
    return read_published(ReviewCase, data, CONSUMER)


def _stored_at(message: api.RawStreamMsg) -> datetime:
    time_of = message.time
    return time_of if isinstance(time_of, datetime) else datetime.fromisoformat(str(time_of))


def review_wait_p95_s(lake: Lake, decision_ids: list[str]) -> float:
    """95th percentile of the waits of reviewed decisions, seconds; 0 without one."""
    rows = lake.read(VERDICTS_TABLE, ["decision_id", "waited_s"])
    if rows is None:
        return 0.0
    wanted = set(decision_ids)
    pairs = zip(rows["decision_id"].to_pylist(), rows["waited_s"].to_pylist(), strict=True)
    waits = [waited for identity, waited in pairs if identity in wanted]
    return float(np.percentile(waits, 95)) if waits else 0.0
