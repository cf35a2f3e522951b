"""The review desk: makes cases of decisions, labels of verdicts, and keeps price and limits."""

import asyncio
from dataclasses import replace
from functools import partial
from time import monotonic

import orjson
from nats.aio.client import Client
from prometheus_client import Gauge

from services.fraud.ingestion.events import (
    DECISIONS_STREAM,
    FLAGGED_DECISIONS,
    VERDICTS_STREAM,
    DecisionEvent,
    ReviewCase,
    read_published,
)
from services.fraud.problem import OUTCOMES
from services.fraud.review import labels
from services.fraud.review.live import PRICE_KEY, open_bucket, read_costs
from services.fraud.review.policy import logged_costs
from services.fraud.review.presence import Presence
from services.fraud.review.price import CASES_PER_ANALYST, slot_price
from services.fraud.review.queue import ReviewQueue
from services.platform.settings import Settings
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import Message, OrderedConsumer, consume
from services.platform.streaming.lag import report_lag
from services.platform.streaming.retry import retry_forever
from services.platform.telemetry import EVENTS

NAME = "review-desk"
_TICK_S, _PRICE_EVERY_S = 0.25, 1.0
_IS_REVIEW = b'"decision":"review"'

BACKLOG = Gauge("review_backlog_cases", "Cases in the review queue or in work")
SLOT_PRICE = Gauge("review_slot_price_eur", "Price of a review slot, infinite without analysts")
ANALYSTS = Gauge("review_analysts", "Analysts at work")


def review_case(message: Message) -> ReviewCase | None:
    """The case of a logged decision; None if it is not to be reviewed, or cannot be read."""
    if _IS_REVIEW not in message.data:
        return None
    event = read_published(DecisionEvent, message.data, NAME)
    if event is None or event.decision != "review" or event.synthetic:
        return None
    without = replace(logged_costs(event.costs or {}), slot=float("inf"))
    return ReviewCase(
        decision_id=event.decision_id,
        score=event.score,
        otherwise=OUTCOMES[without.outcome(event.score, event.transaction.amount_minor)],
        transaction=event.transaction,
    )


class ReviewDesk:
    """Keeps the queue of one installation."""

    def __init__(self, queue: ReviewQueue) -> None:
        self._queue = queue
        self._presence = Presence()
        self._price: float | None = None
        self._priced_at = 0.0

    async def handle(self, batch: list[Message]) -> None:
        """Add the cases of a batch of decisions."""
        for case in filter(None, map(review_case, batch)):
            await self._queue.add(case)
            EVENTS.labels(NAME, "queued").inc()

    async def keep(self, nc: Client) -> None:
        """Keep price and time limit. Runs until cancelled."""
        while True:
            await retry_forever(lambda: self.tick(nc), "keeping the review queue")
            await asyncio.sleep(_TICK_S)

    async def tick(self, nc: Client) -> float:
        """Set the price by the backlog, and close overdue cases; returns the price."""
        js = nc.jetstream()
        bucket = await open_bucket(js)
        await self._presence.update(bucket)
        limit_s = 2 * CASES_PER_ANALYST * self._presence.seconds_per_case
        EVENTS.labels(NAME, "overdue").inc(await self._queue.close_overdue(limit_s))
        backlog = await self._queue.backlog()
        price = slot_price(backlog, self._presence.analysts, await read_costs(js))
        if price != self._price or monotonic() - self._priced_at > _PRICE_EVERY_S:
            await bucket.put(PRICE_KEY, orjson.dumps({"slot": price}))
            self._price, self._priced_at = price, monotonic()
        BACKLOG.set(backlog)
        SLOT_PRICE.set(price / 100)
        ANALYSTS.set(self._presence.analysts)
        return price


async def label_batch(nc: Client, shards: int, batch: list[Message]) -> None:
    """Publish the labels of a batch of verdicts."""
    published = await labels.publish_labels(nc.jetstream(), shards, batch)
    EVENTS.labels(NAME, "labelled").inc(published)


async def main(config: Settings) -> None:
    """Run until cancelled."""
    nc = await connect(config, NAME, timeout_s=60.0)
    # No decision is a review before a desk sets a price, so the first desk needs no older ones.
    consumer = OrderedConsumer(nc, DECISIONS_STREAM, NAME, FLAGGED_DECISIONS, new_only=True)
    verdicts = OrderedConsumer(nc, VERDICTS_STREAM, labels.NAME)
    try:
        queue = await retry_forever(lambda: ReviewQueue.open(nc.jetstream()), "opening the queue")
        desk = ReviewDesk(queue)
        async with asyncio.TaskGroup() as group:
            group.create_task(report_lag({NAME: consumer, labels.NAME: verdicts}))
            group.create_task(consume(consumer, desk.handle))
            group.create_task(consume(verdicts, partial(label_batch, nc, config.shards)))
            group.create_task(desk.keep(nc))
    finally:
        await nc.close()
