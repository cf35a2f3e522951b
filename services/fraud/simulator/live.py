"""The live simulation: its time, its drift and the labels it withholds, kept between runs."""

import asyncio
from dataclasses import asdict
from functools import partial
from typing import Any

import orjson
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from services.fraud.ingestion.events import (
    VERDICT,
    VERDICTS_STREAM,
    LabelEvent,
    Outcome,
    Transaction,
    VerdictEvent,
    parse_published,
)
from services.fraud.problem import DISPUTE_WINDOW_DAYS
from services.fraud.service import SCORER
from services.fraud.simulator.day import START_US
from services.fraud.simulator.drift import Drift, Schedule
from services.fraud.simulator.gateway import Gateway, TrafficReport, simulated_events
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressCallback
from services.platform.runtime.tasks import cancel_tasks
from services.platform.runtime.tokens import client_headers
from services.platform.settings import Settings
from services.platform.streaming.connection import connect, ensure_bucket
from services.platform.streaming.retry import retry_forever
from services.platform.streaming.stored import history

BUCKET = "simulator"
_PREFIX = "held."
# Days of transactions whose labels may still fall due.
_MAX_DAYS = DISPUTE_WINDOW_DAYS + 2


class SimulationState:
    """Position and drift schedule of the simulation, stored in a NATS key-value bucket.

    The stored cursor is ahead of the events sent, so that after a crash some events are skipped and
    none is sent twice.

    Attributes:
        bucket: Where it is stored.
        cursor_us: Event time reached, microseconds since the epoch.
        schedule: The drifts so far.
    """

    _AHEAD = 2.0

    def __init__(self, bucket: KeyValue, at_us: int, schedule: Schedule) -> None:
        self.bucket = bucket
        self.cursor_us = at_us
        self.schedule = schedule

    @classmethod
    async def open(cls, js: JetStreamContext, default_us: int) -> "SimulationState":
        """Read the stored state; without one the cursor is `default_us`."""
        bucket = await ensure_bucket(js, BUCKET)
        at_us = await _get(bucket, "cursor", default_us)
        stored = await _get(bucket, "schedule", [])
        return cls(bucket, at_us, tuple((at, Drift(**drift)) for at, drift in stored))

    async def set_drift(self, drift: Drift) -> None:
        """Apply a drift from the cursor on, unless it is the present one."""
        if drift == (self.schedule[-1][1] if self.schedule else Drift()):
            return
        self.schedule = (*self.schedule, (self.cursor_us, drift))
        stored = [(at, asdict(change)) for at, change in self.schedule]
        await self.bucket.put("schedule", orjson.dumps(stored))

    def advance(self, at_us: int) -> None:
        """Move the cursor to an event time."""
        self.cursor_us = max(self.cursor_us, at_us)

    async def checkpoint_forever(self) -> None:
        """Store the cursor every second, ahead by twice the progress of the last second."""
        while True:
            before = self.cursor_us
            await asyncio.sleep(1.0)
            await self._put(self.cursor_us + int(self._AHEAD * (self.cursor_us - before)))

    async def checkpoint(self) -> None:
        """Store the exact cursor, after all events before it were sent."""
        await self._put(self.cursor_us)

    async def _put(self, at_us: int) -> None:
        await retry_forever(partial(self.bucket.put, "cursor", orjson.dumps(at_us)), "the cursor")


class HeldLabels:
    """Payments that were not approved, in a NATS bucket: which labels exist.

    An approved payment is charged back, or its dispute window closes. A declined one has no label.
    A reviewed one is made if the verdict says so; if an analyst calls it fraud, that is its label,
    which the review desk publishes. A payment without a decision, such as the backfill's, was made.

    A key a day: its payments' ids, and of a reviewed one the decision's id.
    """

    def __init__(self, js: JetStreamContext, bucket: KeyValue) -> None:
        """Hold nothing yet."""
        self._js = js
        self._bucket = bucket
        self._days: dict[str, dict[str, str]] = {}

    @classmethod
    async def open(cls, js: JetStreamContext, bucket: KeyValue) -> "HeldLabels":
        """Read what was held before."""
        made = cls(js, bucket)
        async for _, message in history(js, f"KV_{BUCKET}", f"$KV.{BUCKET}.{_PREFIX}>"):
            if not (message.headers or {}).get("KV-Operation"):
                day = (message.subject or "").rpartition(_PREFIX)[2]
                made._days[day] = orjson.loads(message.data or b"{}")
        return made

    async def note(self, transaction: Transaction, outcome: Outcome, decision_id: str) -> None:
        """Note a decision."""
        if outcome == "approve":
            return
        day = f"{transaction.event_time:%Y-%m-%d}"
        of_day = self._days.setdefault(day, {})
        of_day[transaction.transaction_id] = decision_id if outcome == "review" else ""
        # What is held by then: a retry must not undo a later note.
        await retry_forever(
            lambda: self._bucket.put(f"{_PREFIX}{day}", orjson.dumps(of_day)),
            "noting what was declined",
        )
        for old in sorted(self._days)[:-_MAX_DAYS]:
            del self._days[old]
            await retry_forever(partial(self._bucket.delete, f"{_PREFIX}{old}"), "forgetting a day")

    async def is_given(self, label: LabelEvent) -> bool:
        """Whether a label that falls due now exists."""
        held = (d[label.transaction_id] for d in self._days.values() if label.transaction_id in d)
        decision_id = next(held, None)
        if not decision_id:
            return decision_id is None
        verdict = await retry_forever(partial(self._verdict, decision_id), "reading a verdict")
        return verdict is not None and verdict.outcome == "approve"

    async def _verdict(self, decision_id: str) -> VerdictEvent | None:
        try:
            found = await self._js.get_last_msg(VERDICTS_STREAM, f"{VERDICT}.{decision_id}")
        except NotFoundError:
            return None
        return parse_published(VerdictEvent, found.data or b"")


async def simulate_live(
    config: Settings,
    report: TrafficReport,
    seed: int,
    rate: float,
    seconds: float,
    step: ProgressCallback,
    drift: Drift | None = None,
) -> None:
    """Simulate live traffic for some seconds, continuing at the stored cursor.

    Args:
        config: Where the stack runs.
        report: What is measured is added to it, also where the simulation is cancelled.
        seed: Seed of the simulation.
        rate: Transactions a second.
        seconds: Duration.
        step: Called with (sent, total).
        drift: The drift from now on; None keeps the present one.

    Raises:
        ConnectionError: NATS does not answer.
    """
    nc = await connect(config, "simulator")
    state = await SimulationState.open(nc.jetstream(), START_US)
    if drift is not None:
        await state.set_drift(drift)
    checkpoints = asyncio.create_task(state.checkpoint_forever())
    try:
        held = await HeldLabels.open(nc.jetstream(), state.bucket)
        gateway = Gateway(
            nc, SCORER.url(config), config.shards,
            held=held, headers=client_headers(config), report=report,
        )  # fmt: skip
        simulated = simulated_events(Traffic(seed, state.schedule), state.cursor_us)
        await gateway.run(simulated, rate, round(rate * seconds), step, state.advance)
        await cancel_tasks(checkpoints)
        await state.checkpoint()
    finally:
        await cancel_tasks(checkpoints)
        await nc.close()


async def _get(bucket: KeyValue, key: str, default: Any) -> Any:
    try:
        return orjson.loads((await bucket.get(key)).value or b"null")
    except NotFoundError:
        return default
