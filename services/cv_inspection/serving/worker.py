"""The inspection worker: fetch, look, store the result, say so, acknowledge; in this order.

Killed anywhere in between it does it again, and nothing comes of it: a result that is there for the
same place and bytes is told again rather than made again, and an inspection's event carries its
identity. A file that is no picture gets a result that says why, and a dead letter.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime

import orjson
from nats.js import JetStreamContext
from pydantic import ValidationError

from services.cv_inspection.ingestion.events import (
    DEAD,
    IMAGE,
    INSPECTION,
    STREAM,
    BadImage,
    InspectionEvent,
    Place,
    inspection_id,
    parse_image,
)
from services.cv_inspection.ingestion.reconciliation import reconcile
from services.cv_inspection.serving.inspect import inspect
from services.cv_inspection.serving.model import DESIGN, ImageModel, read_model
from services.platform.models.served_model import Champion
from services.platform.runtime.worker import report_lag, run_worker
from services.platform.settings import Settings, settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import (
    Delivered,
    OrderedConsumer,
    connect,
    consume,
    dead_letter,
)
from services.platform.telemetry import EVENTS, INSPECTION_SECONDS

log = logging.getLogger(__name__)

NAME = "inspection"
BATCH = 16
_AT_ONCE = 4
_RECONCILE_EVERY_S = 60.0


class NoModel(TimeoutError):
    """There is no model yet; the batch is tried again."""


class InspectionWorker:
    """Inspects the pictures that events tell of."""

    def __init__(
        self, js: JetStreamContext, inbox: Lake, results: Lake, champion: Champion[ImageModel]
    ) -> None:
        self._js = js
        self._inbox = inbox
        self._results = results
        self._champion = champion
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def handle(self, batch: list[Delivered]) -> None:
        """Inspect one batch, some pictures at once.

        Raises:
            OSError, nats.errors.Error, NoModel: try the same batch again.
        """
        model = self._champion.model
        if model is None:
            raise NoModel("no model is loaded yet")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(model, message)) for message in batch]
        now = time.time()
        for message, outcome in zip(batch, (task.result() for task in tasks), strict=True):
            EVENTS.labels(NAME, outcome).inc()
            INSPECTION_SECONDS.observe(max(now - message.published_us / 1e6, 0.0))

    async def _one(self, model: ImageModel, message: Delivered) -> str:
        """Inspect what one message tells of. Returns what became of it."""
        async with self._slots:
            try:
                key = parse_image(message).key
                place = Place.of(key)
                event, outcome = await asyncio.to_thread(
                    self._inspected, model, message, key, place
                )
            except FileNotFoundError:
                await self._dead(message, f"{key}: no such object any more")
                return "dead"
            except ValueError as error:
                await self._dead(message, str(error))
                return "dead"
            subject = f"{INSPECTION}.{place.line}"
            headers = {"Nats-Msg-Id": event.inspection_id}
            await self._js.publish(subject, event.model_dump_json().encode(), headers=headers)
            return outcome

    def _inspected(
        self, model: ImageModel, message: Delivered, key: str, place: Place
    ) -> tuple[InspectionEvent, str]:
        """The picture's event, its result stored: the one that is there, or a new one."""
        data = self._inbox.get(key)
        known = self._known(place)
        if known is not None and known.inspection_id == inspection_id(place, data):
            return known, "known"
        at = datetime.fromtimestamp(message.published_us / 1e6, UTC)
        try:
            seen = inspect(model, data, place, at, key)
        except BadImage as error:
            said = orjson.dumps({"key": key, "error": str(error)})
            self._results.put(f"{place.stem}.json", said)
            raise
        self._results.put(f"{place.stem}.mask.png", seen.mask_png)
        self._results.put(f"{place.stem}.json", seen.event.model_dump_json().encode())
        return seen.event, "inspected"

    def _known(self, place: Place) -> InspectionEvent | None:
        try:
            return InspectionEvent.model_validate_json(self._results.get(f"{place.stem}.json"))
        except (FileNotFoundError, ValidationError):
            return None

    async def _dead(self, message: Delivered, reason: str) -> None:
        await dead_letter(self._js, DEAD, NAME, message, reason)


async def _reconcile_for_ever(config: Settings, consumer: OrderedConsumer) -> None:
    """Look now and then for pictures whose event never came. Runs until cancelled."""
    while True:
        await asyncio.sleep(_RECONCILE_EVERY_S)
        try:
            found = await reconcile(config)
            if found:
                log.warning("%d pictures had no event; they have one now", found)
        except (OSError, TimeoutError, ConnectionError) as error:
            log.warning("reconciliation: %s; trying again", error)


async def serve(config: Settings) -> None:
    """Run until cancelled."""
    nc = await connect(config, "inspection-worker", patience_s=60.0)
    champion = Champion(config, DESIGN, read_model)
    await asyncio.to_thread(champion.load)
    inbox, results = Lake(config, config.inbox), Lake(config, config.results)
    worker = InspectionWorker(nc.jetstream(), inbox, results, champion)
    consumer = OrderedConsumer(nc, STREAM, NAME, f"{IMAGE}.>", BATCH)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(champion.watch(nc))
            group.create_task(report_lag({NAME: consumer}))
            group.create_task(_reconcile_for_ever(config, consumer))
            group.create_task(consume(consumer, worker.handle))
    finally:
        await nc.close()


def main() -> None:
    """Start the worker."""
    config = settings()
    run_worker(config, config.metrics_port + 4, lambda: serve(config))


if __name__ == "__main__":
    main()
