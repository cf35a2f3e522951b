"""The payment gateway: asks for a score, then publishes what happened. At a rate, open loop.

Each transaction has its moment, and its latency counts from that moment: a slow answer delays
nobody else and cannot hide behind the ones it held up (no coordinated omission). Event time is
the simulated world's own: at 200 transactions a second a day of it passes in a minute.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import partial
from itertools import chain, islice
from typing import Any

import aiohttp
import orjson
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from services.fraud.ingestion.events import (
    LABEL,
    TX,
    Event,
    LabelEvent,
    Outcome,
    Transaction,
    TransactionEvent,
    microseconds,
    subject,
)
from services.fraud.simulator.drift import Drift, Schedule
from services.fraud.simulator.tables import label, merged, transaction
from services.fraud.simulator.traffic import DAY_US, START_US, Traffic
from services.platform.progress import Step
from services.platform.streaming.consumer import ensure_bucket, insist

BUCKET = "simulator"
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Happening:
    """An event of the world, and for a transaction whether it truly is fraud."""

    event: Transaction | LabelEvent
    fraud: bool = False


@dataclass
class Report:
    """What the gateway saw, one entry a transaction in order of completion.

    Attributes:
        latency_ms: From the moment a request was due to its answer.
        decision_ids: Of every answer. declined, fraud, amount: Of the same transactions.
        degraded: Answers given without the online store. failures: Requests without an answer.
        errors: What went wrong, by message. seconds: How long the run took.
    """

    latency_ms: list[float] = field(default_factory=list)
    decision_ids: list[str] = field(default_factory=list)
    declined: list[bool] = field(default_factory=list)
    fraud: list[bool] = field(default_factory=list)
    amount: list[int] = field(default_factory=list)
    degraded: int = 0
    labels: int = 0
    failures: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """Requests made, answered or not."""
        return len(self.latency_ms) + self.failures

    def fail(self, why: str) -> None:
        """Count a request that got no answer."""
        self.failures += 1
        self.errors[why] = self.errors.get(why, 0) + 1


class Gateway:
    """Sends happenings to the scorer and the stream."""

    def __init__(self, nc: Client, scorer_url: str, shards: int) -> None:
        self._js: JetStreamContext = nc.jetstream()
        self._url = f"{scorer_url}/score"
        self._shards = shards
        self._tasks: set[asyncio.Task[None]] = set()
        self.report = Report()

    async def run(
        self,
        happenings: Iterable[Happening],
        rate: float,
        most: int,
        step: Step,
        mark: Callable[[int], None] = lambda _: None,
    ) -> Report:
        """Send up to `most` transactions, `rate` a second, with the labels that fall due.

        Args:
            step: Told (sent, most). mark: Told the event time (microseconds) of what was sent.
        """
        world = iter(happenings)
        ready = list(islice(world, 1))  # The world is made before the clock runs.
        begin = started = time.perf_counter()
        present = Present()
        sent = 0
        connector = aiohttp.TCPConnector(limit=512)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            try:
                for happening in chain(ready, world):
                    event = happening.event
                    if isinstance(event, LabelEvent):
                        self._start(self._label(event))
                    elif sent == most:
                        break
                    else:
                        due = begin + sent / rate + present.wait_s(event.event_time)
                        begin = due - sent / rate
                        await _until(due)
                        self._start(self._transaction(http, event, happening.fraud, due))
                        sent += 1
                        step(sent, most)
                    mark(microseconds(event.event_time))
            finally:
                await asyncio.gather(*self._tasks)
        self.report.seconds = time.perf_counter() - started
        return self.report

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _transaction(
        self, http: aiohttp.ClientSession, asked: Transaction, fraud: bool, due: float
    ) -> None:
        outcome = await self._ask(http, asked, fraud, due)
        event = TransactionEvent(**dict(asked), outcome=outcome)
        await self._publish(TX, event)

    async def _ask(
        self, http: aiohttp.ClientSession, asked: Transaction, fraud: bool, due: float
    ) -> Outcome | None:
        """The scorer's answer; None without one, and the gateway lets the customer pay."""
        body = asked.model_dump_json().encode()
        headers = {"Content-Type": "application/json"}
        try:
            async with http.post(self._url, data=body, headers=headers) as response:
                answer = await response.read()
                if response.status != 200:
                    self.report.fail(f"{response.status}: {answer[:200].decode(errors='replace')}")
                    return None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.report.fail(str(error) or type(error).__name__)
            return None
        self.report.latency_ms.append((time.perf_counter() - due) * 1e3)
        decision = orjson.loads(answer)
        outcome: Outcome = decision["decision"]
        self.report.decision_ids.append(decision["decision_id"])
        self.report.declined.append(outcome == "decline")
        self.report.fraud.append(fraud)
        self.report.amount.append(asked.amount_minor)
        self.report.degraded += decision["degraded"]
        return outcome

    async def _label(self, event: LabelEvent) -> None:
        await self._publish(LABEL, event)
        self.report.labels += 1

    async def _publish(self, prefix: str, event: Event) -> None:
        """Publish until the stream has it: what happened is not to be forgotten."""
        where = subject(prefix, event, self._shards)
        headers = {"Nats-Msg-Id": f"{prefix}-{event.transaction_id}"}
        data = event.model_dump_json().encode()
        await insist(partial(self._js.publish, where, data, headers=headers), "publishing")


class Present:
    """The wall clock, which no world is played past: an event from the future would be refused.

    A world that was played faster than time passes comes to it one day, and goes on in real time.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def wait_s(self, event_time: datetime) -> float:
        """Seconds until an event may be sent, 0 for one of the past."""
        return max(event_time.timestamp() - self._now(), 0.0)


async def _until(due: float) -> None:
    """Sleep until a moment of `perf_counter`; always let others run."""
    await asyncio.sleep(max(due - time.perf_counter(), 0.0))


def happenings(traffic: Traffic, after_us: int) -> Iterator[Happening]:
    """The simulated world after a moment, in order of event time, for ever.

    A day is made while the one before is played: at its midnight no request is to wait for it.
    """
    number = max((after_us - START_US) // DAY_US, 0)
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(merged, traffic, number)
        while True:
            number += 1
            today, coming = coming.result(), maker.submit(merged, traffic, number)
            for time_us, day, index, is_label in today:
                if time_us <= after_us:
                    continue
                if is_label:
                    yield Happening(label(day, index))
                else:
                    yield Happening(transaction(day, index), bool(day.scenario[index] > 0))


class WorldState:
    """How far the simulated world has been played, and how it changed, kept beside the stream.

    The cursor is moved ahead of what is sent, so that a crash skips a moment and repeats nothing.
    """

    _AHEAD = 2.0

    def __init__(self, bucket: KeyValue, at_us: int, schedule: Schedule) -> None:
        self._bucket = bucket
        self.at_us = at_us
        self.schedule = schedule

    @classmethod
    async def open(cls, js: JetStreamContext, default_us: int) -> "WorldState":
        """Read what is kept; the world stands at `default_us` where nothing is."""
        bucket = await ensure_bucket(js, BUCKET)
        at_us = await _get(bucket, "cursor", default_us)
        kept = await _get(bucket, "schedule", [])
        return cls(bucket, at_us, tuple((at, Drift(**drift)) for at, drift in kept))

    async def change(self, drift: Drift) -> None:
        """Let the world change now, if it does."""
        if drift == (self.schedule[-1][1] if self.schedule else Drift()):
            return
        self.schedule = (*self.schedule, (self.at_us, drift))
        kept = [(at, asdict(change)) for at, change in self.schedule]
        await self._bucket.put("schedule", orjson.dumps(kept))

    def reach(self, at_us: int) -> None:
        """Note that the world has come to a moment."""
        self.at_us = max(self.at_us, at_us)

    async def keep(self) -> None:
        """Store the cursor every second, ahead by as much as the last second took."""
        while True:
            before = self.at_us
            await asyncio.sleep(1.0)
            await self._put(self.at_us + int(self._AHEAD * (self.at_us - before)))

    async def store(self) -> None:
        """Store the cursor as it stands, once everything before it was sent."""
        await self._put(self.at_us)

    async def _put(self, at_us: int) -> None:
        await insist(partial(self._bucket.put, "cursor", orjson.dumps(at_us)), "the cursor")


async def _get(bucket: KeyValue, key: str, default: Any) -> Any:
    try:
        return orjson.loads((await bucket.get(key)).value or b"null")
    except NotFoundError:
        return default
