"""The payment gateway: posts each transaction to the scorer, then publishes its outcome.

It is an open loop at a fixed rate. Each transaction has a due time, and latency counts from the due
time: a slow answer does not delay other requests, and waiting requests count as slow (no
coordinated omission). Event time is simulated: at 200 transactions a second, a simulated day takes
a minute.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Any, Protocol

import aiohttp
import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import PubAck
from nats.js.kv import KeyValue

from services.fraud.ingestion.events import (
    LABEL,
    TX,
    Event,
    LabelEvent,
    Outcome,
    SimulatedEvent,
    Transaction,
    TransactionEvent,
    microseconds,
    subject,
)
from services.fraud.simulator.analysts import open_truth, tell_truth
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.tables import (
    events_of_day,
    label,
    transaction,
)
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressCallback
from services.platform.runtime.client import open_session, post
from services.platform.streaming.retry import retry_forever

_TIMEOUT_S = 10.0


@dataclass
class TrafficReport:
    """What the gateway measured. Lists have one entry per answer, in order of completion.

    Attributes:
        latency_ms: From due time to answer.
        decision_ids: Identity of each decision.
        outcome: The scorer's decision.
        score: Its probability of fraud.
        threshold: The best single threshold on it, of the model in use.
        fraud: Whether the transaction truly is fraud; None if that is not known.
        amount: Minor units.
        degraded: Number of answers given without the online store.
        controls: Number of would-be declines that were approved to learn their outcome.
        labels: Number of labels published.
        withheld: Number of labels that do not exist, see `live.HeldLabels`.
        duplicates: Number of events that the stream had already; it keeps the first of an id.
        failures: Number of requests without an answer.
        errors: Number of failures by message.
        seconds: Duration of the run.
    """

    latency_ms: list[float] = field(default_factory=list)
    decision_ids: list[str] = field(default_factory=list)
    outcome: list[Outcome] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    fraud: list[bool | None] = field(default_factory=list)
    amount: list[int] = field(default_factory=list)
    degraded: int = 0
    controls: int = 0
    labels: int = 0
    withheld: int = 0
    duplicates: int = 0
    failures: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """Number of requests, answered or not."""
        return len(self.latency_ms) + self.failures

    def count_failure(self, message: str) -> None:
        """Count a request without an answer."""
        self.failures += 1
        self.errors[message] = self.errors.get(message, 0) + 1


class LabelFilter(Protocol):
    """Says which labels exist, by what was decided."""

    async def note(self, transaction: Transaction, outcome: Outcome, decision_id: str) -> None:
        """Note a decision."""

    async def is_given(self, label: LabelEvent) -> bool:
        """Whether a label that falls due now exists."""


class Gateway:
    """Sends simulated transactions to the scorer, and transactions and labels to the stream."""

    def __init__(
        self,
        nc: Client,
        scorer_url: str,
        shards: int,
        feed: str = "",
        held: LabelFilter | None = None,
        headers: Mapping[str, str] | None = None,
        report: TrafficReport | None = None,
    ) -> None:
        """Send nothing yet.

        Args:
            nc: A connection.
            scorer_url: Base URL of the scorer.
            shards: Number of shards in subjects.
            feed: Feed of the events; empty leaves theirs.
            held: Withholds labels that do not exist; None: all exist, as in a file.
            headers: Of each request, besides its type.
            report: What is measured is added to it; None: to a new one.
        """
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._feed = feed
        self._held = held
        self._nc = nc
        self._js: JetStreamContext = nc.jetstream()
        self._url = f"{scorer_url}/score"
        self._shards = shards
        self._tasks: set[asyncio.Task[None]] = set()
        self._truth: KeyValue | None = None
        self._on_published: Callable[[str], None] = lambda _: None
        self.report = report or TrafficReport()

    async def run(
        self,
        events: Iterable[SimulatedEvent],
        rate: float,
        max_transactions: int,
        step: ProgressCallback,
        on_sent: Callable[[int], None] = lambda _: None,
        on_published: Callable[[str], None] = lambda _: None,
    ) -> TrafficReport:
        """Send transactions at a rate, and the labels that fall due between them.

        Args:
            events: Transactions and labels in order of event time.
            rate: Transactions a second.
            max_transactions: Stop after this many.
            step: Called with (sent, max_transactions).
            on_sent: Called with the event time (microseconds since the epoch) of each event sent.
            on_published: Called with the message id of each event that the stream acknowledged.
        """
        self._on_published = on_published
        source = iter(events)
        first = list(islice(source, 1))  # Simulating the first day must not count as latency.
        begin = started = time.perf_counter()
        clock = WallClock()
        sent = 0
        async with open_session(_TIMEOUT_S, max_connections=512) as http:
            try:
                for simulated in chain(first, source):
                    event = simulated.event
                    if self._feed:
                        event = event.model_copy(update={"feed": self._feed})
                    if isinstance(event, LabelEvent):
                        self._start(self._label(event))
                    elif sent == max_transactions:
                        break
                    else:
                        due = begin + sent / rate + clock.wait_s(event.event_time)
                        begin = due - sent / rate
                        await _sleep_until(due)
                        self._start(self._transaction(http, event, simulated.fraud, due))
                        sent += 1
                        step(sent, max_transactions)
                    on_sent(microseconds(event.event_time))
            finally:
                await asyncio.gather(*self._tasks)
                self.report.seconds = time.perf_counter() - started
        return self.report

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _transaction(
        self, http: aiohttp.ClientSession, request: Transaction, fraud: bool | None, due: float
    ) -> None:
        outcome = await self._score(http, request, fraud, due)
        event = TransactionEvent(**dict(request), outcome=outcome)
        await self._publish(TX, event)

    async def _score(
        self, http: aiohttp.ClientSession, request: Transaction, fraud: bool | None, due: float
    ) -> Outcome | None:
        """The scorer's decision; None without an answer, and the gateway lets the customer pay."""
        body = request.model_dump_json().encode()
        try:
            status, answer = await post(http, self._url, data=body, headers=self._headers)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.report.count_failure(str(error) or type(error).__name__)
            return None
        if status != 200:
            self.report.count_failure(f"{status}: {answer[:200].decode(errors='replace')}")
            return None
        self.report.latency_ms.append((time.perf_counter() - due) * 1e3)
        decision = orjson.loads(answer)
        outcome: Outcome = decision["decision"]
        self.report.decision_ids.append(decision["decision_id"])
        self.report.outcome.append(outcome)
        self.report.score.append(decision["score"])
        self.report.threshold.append(decision["threshold"])
        self.report.fraud.append(fraud)
        self.report.amount.append(request.amount_minor)
        self.report.degraded += decision["degraded"]
        self.report.controls += decision["control"]
        if self._held:
            await self._held.note(request, outcome, decision["decision_id"])
        if outcome == "review" and fraud is not None:
            await self._tell_analysts(request.transaction_id, fraud)
        return outcome

    async def _tell_analysts(self, transaction_id: str, fraud: bool) -> None:
        """Note the truth for the simulated analysts."""
        with suppress(NatsError, OSError, TimeoutError):
            self._truth = self._truth or await open_truth(self._js)
            await tell_truth(self._truth, transaction_id, fraud)

    async def _label(self, event: LabelEvent) -> None:
        if self._held and not await self._held.is_given(event):
            self.report.withheld += 1
            return
        await self._publish(LABEL, event)
        self.report.labels += 1

    async def _publish(self, prefix: str, event: Event) -> None:
        """Retry until the stream acknowledges; events must not be lost."""
        target = subject(prefix, event, self._shards)
        identity = message_id(event)
        headers = {"Nats-Msg-Id": identity}
        data = event.model_dump_json().encode()

        async def publish() -> PubAck:
            # The client keeps each request that it could not send, for ever.
            if not self._nc.is_connected:
                raise ConnectionError("NATS is away")
            return await self._js.publish(target, data, headers=headers)

        ack = await retry_forever(publish, "publishing")
        self.report.duplicates += bool(ack.duplicate)
        self._on_published(identity)


def message_id(event: Transaction | LabelEvent) -> str:
    """The id by which the stream recognises an event that is published twice within minutes."""
    return event.message_id if isinstance(event, LabelEvent) else f"{TX}-{event.transaction_id}"


class WallClock:
    """The wall clock: no event is sent before its event time, because the scorer refuses those.

    A simulation that runs faster than real time continues in real time once it has caught up.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now

    def wait_s(self, event_time: datetime) -> float:
        """Seconds until an event may be sent, 0 for a past one."""
        return max(event_time.timestamp() - self._now(), 0.0)


async def _sleep_until(due: float) -> None:
    """Sleep until a time of `perf_counter`; yields to the event loop at least once."""
    await asyncio.sleep(max(due - time.perf_counter(), 0.0))


def simulated_events(traffic: Traffic, after_us: int) -> Iterator[SimulatedEvent]:
    """Simulated transactions and labels after an event time, in order, without end.

    Each day is simulated in a thread while the day before is sent, so that no request waits at
    midnight.

    Args:
        traffic: The simulated traffic.
        after_us: Event time, microseconds since the epoch.
    """
    number = max((after_us - START_US) // DAY_US, 0)
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(events_of_day, traffic, number)
        while True:
            number += 1
            today, upcoming = upcoming.result(), pool.submit(events_of_day, traffic, number)
            for time_us, day, index, is_label in today:
                if time_us <= after_us:
                    continue
                if is_label:
                    yield SimulatedEvent(label(day, index))
                else:
                    yield SimulatedEvent(transaction(day, index), bool(day.scenario[index] > 0))
