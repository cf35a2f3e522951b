"""Simulated analysts, who work the real review queue: a number, minutes a case, and their errors.

They know the simulator's truth of the transactions that the gateway sent to review, and err as
often as the cost model says. Of a transaction without a known truth they judge by its score. They
work as much faster than people as the simulated day is faster than a day.
"""

import asyncio
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue
from prometheus_client import Histogram

from features.spec import DAY
from services.fraud.ingestion.events import Verdict
from services.fraud.problem import ANALYST_MINUTES, DISPUTE_WINDOW_DAYS, CostModel
from services.fraud.review.live import read_costs
from services.fraud.review.presence import SIMULATED_KEY, report_present
from services.fraud.review.queue import Lease, LeaseLost, ReviewQueue
from services.platform.settings import Settings
from services.platform.streaming.connection import connect, ensure_bucket
from services.platform.streaming.retry import retry_forever
from services.platform.telemetry import EVENTS

NAME = "analysts"
TRUTH_BUCKET = "SIMULATED_TRUTH"
NUMBER = 2
# At 100 transactions a second, a simulated day takes two minutes.
SPEED = 720.0
_PRESENT_EVERY_S, _MAX_WAIT_S = 1.0, 5.0

WAIT = Histogram(
    "review_wait_seconds",
    "From a case's arrival until an analyst takes it",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1_800, 3_600),
)


def verdict_of(fraud: bool, costs: CostModel, rng: Random) -> Verdict:
    """The verdict of an analyst who errs as the cost model says."""
    wrong = rng.random() < (costs.missed if fraud else costs.wrongly_stopped)
    return "fraud" if fraud is not wrong else "genuine"


async def tell_truth(bucket: KeyValue, transaction_id: str, fraud: bool) -> None:
    """Note the truth of a transaction for the analysts; the gateway does."""
    await bucket.put(transaction_id, b"1" if fraud else b"0")


async def open_truth(js: JetStreamContext) -> KeyValue:
    """The truths that the gateway noted, created unless there are any."""
    return await ensure_bucket(js, TRUTH_BUCKET, DISPUTE_WINDOW_DAYS * DAY)


class SimulatedAnalyst:
    """One analyst."""

    def __init__(
        self,
        js: JetStreamContext,
        seconds_per_case: float,
        number: int,
        errors: Mapping[str, float] | None = None,
    ) -> None:
        """Open nothing.

        Args:
            errors: Shares of errors, by their names in the cost model, in place of its own.
        """
        self._js = js
        self._errors = errors or {}
        self._seconds = seconds_per_case
        self._name = f"simulated-{number}"
        self._rng = Random(number)

    async def work(self) -> None:
        """Review one case after the other. Runs until cancelled."""
        queue = await retry_forever(lambda: ReviewQueue.open(self._js), "opening the queue")
        truth = await retry_forever(lambda: open_truth(self._js), "opening the truth")
        while True:
            lease = await retry_forever(lambda: queue.take(_MAX_WAIT_S), "taking a case")
            if lease is None:
                continue
            WAIT.observe(lease.waited_s)
            await asyncio.sleep(self._rng.expovariate(1 / self._seconds))
            try:
                costs = replace(await read_costs(self._js), **self._errors)  # type: ignore[arg-type]
                verdict = verdict_of(await self._fraud(truth, lease), costs, self._rng)
                await queue.decide(lease, verdict, self._name)
                EVENTS.labels(NAME, verdict).inc()
            except (LeaseLost, NatsError, OSError, TimeoutError):
                EVENTS.labels(NAME, "lost").inc()  # the case is decided, or comes again

    async def _fraud(self, truth: KeyValue, lease: Lease) -> bool:
        try:
            entry = await truth.get(lease.case.transaction.transaction_id)
        except (NotFoundError, NatsError):
            return self._rng.random() < lease.case.score
        return entry.value == b"1"


def parse_arguments(_: Settings, arguments: Sequence[str]) -> dict[str, Any]:
    """How many analysts, their minutes and errors, and how much faster than people they are."""
    parser = ArgumentParser(prog=NAME, description=__doc__)
    share = partial(_share, parser)
    parser.add_argument("--number", type=int, default=NUMBER)
    parser.add_argument("--speed", type=float, default=SPEED, help="times as fast as people")
    parser.add_argument("--minutes", type=float, default=ANALYST_MINUTES, help="a case, on average")
    parser.add_argument("--missed", type=share, help="share of frauds; else the cost model's")
    parser.add_argument("--wrongly-stopped", type=share, help="share of genuine payments")
    options = parser.parse_args(list(arguments))
    if options.number < 0 or options.speed <= 0 or options.minutes <= 0:
        parser.error("--number must not be negative, --speed and --minutes must be above 0")
    return vars(options)


def _share(parser: ArgumentParser, text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        parser.error(f"{text} is no share: from 0 to 1")
    return share


async def main(
    config: Settings,
    number: int = NUMBER,
    speed: float = SPEED,
    minutes: float = ANALYST_MINUTES,
    missed: float | None = None,
    wrongly_stopped: float | None = None,
) -> None:
    """Run until cancelled. Arguments as on the command line; None: the cost model's."""
    given = {"missed": missed, "wrongly_stopped": wrongly_stopped}
    errors = {name: share for name, share in given.items() if share is not None}
    nc = await connect(config, NAME, timeout_s=60.0)
    js = nc.jetstream()
    seconds = minutes * 60 / speed

    async def present() -> None:
        while True:
            await retry_forever(
                lambda: report_present(js, SIMULATED_KEY, number, seconds), "reporting presence"
            )
            await asyncio.sleep(_PRESENT_EVERY_S)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(present())
            for one in range(number):
                group.create_task(SimulatedAnalyst(js, seconds, one, errors).work())
    finally:
        await nc.close()
