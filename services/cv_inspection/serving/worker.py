"""The inspection worker: fetch, inspect, store the result, publish it, acknowledge.

If it is killed in between, it repeats the work without duplicates: a stored result of the same key
and bytes is published again, not computed again, and the stream drops a second event with the same
inspection id. An invalid file gets a result that says why, and a dead letter.
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
    ImageRef,
    InspectionEvent,
    inspection_id,
    parse_image,
)
from services.cv_inspection.ingestion.images import InvalidImage
from services.cv_inspection.ingestion.reconciliation import reconcile
from services.cv_inspection.serving.inspect import inspect
from services.cv_inspection.serving.model import DESIGN, ImageModel, read_model
from services.platform.models.served_model import ServedModel
from services.platform.runtime.worker import report_lag
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import Message, OrderedConsumer, consume, dead_letter
from services.platform.telemetry import EVENTS, INSPECTION_SECONDS

log = logging.getLogger(__name__)

NAME = "inspection"
BATCH = 16
_CONCURRENCY = 4
_RECONCILE_INTERVAL_S = 60.0


class NoModel(TimeoutError):
    """There is no model yet; the batch is retried."""


class InspectionWorker:
    """Inspects the images of the stream's events."""

    def __init__(
        self, js: JetStreamContext, inbox: Lake, results: Lake, champion: ServedModel[ImageModel]
    ) -> None:
        self._js = js
        self._inbox = inbox
        self._results = results
        self._champion = champion
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    async def handle(self, batch: list[Message]) -> None:
        """Inspect one batch, a few images at a time.

        Raises:
            OSError, nats.errors.Error, NoModel: retry the same batch.
        """
        model = self._champion.model
        if model is None:
            raise NoModel("no model is loaded yet")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._inspect_message(model, message)) for message in batch]
        now = time.time()
        for message, outcome in zip(batch, (task.result() for task in tasks), strict=True):
            EVENTS.labels(NAME, outcome).inc()
            INSPECTION_SECONDS.observe(max(now - message.published_us / 1e6, 0.0))

    async def _inspect_message(self, model: ImageModel, message: Message) -> str:
        """Inspect the image of one message. Returns inspected, known or dead."""
        async with self._slots:
            try:
                key = parse_image(message).key
                image_ref = ImageRef.from_key(key)
                event, outcome = await asyncio.to_thread(
                    self._inspect_and_store, model, message, key, image_ref
                )
            except FileNotFoundError:
                await self._dead_letter(message, f"{key}: the object no longer exists")
                return "dead"
            except ValueError as error:
                await self._dead_letter(message, str(error))
                return "dead"
            subject = f"{INSPECTION}.{image_ref.line}"
            headers = {"Nats-Msg-Id": event.inspection_id}
            await self._js.publish(subject, event.model_dump_json().encode(), headers=headers)
            return outcome

    def _inspect_and_store(
        self, model: ImageModel, message: Message, key: str, image_ref: ImageRef
    ) -> tuple[InspectionEvent, str]:
        """The image's inspection, stored before or now, and whether it is known or inspected."""
        data = self._inbox.get(key)
        known = self._stored_result(image_ref)
        if known is not None and known.inspection_id == inspection_id(image_ref, data):
            return known, "known"
        at = datetime.fromtimestamp(message.published_us / 1e6, UTC)
        try:
            result = inspect(model, data, image_ref, at, key)
        except InvalidImage as error:
            message_json = orjson.dumps({"key": key, "error": str(error)})
            self._results.put(f"{image_ref.stem}.json", message_json)
            raise
        self._results.put(f"{image_ref.stem}.mask.png", result.mask_png)
        self._results.put(f"{image_ref.stem}.json", result.event.model_dump_json().encode())
        return result.event, "inspected"

    def _stored_result(self, image_ref: ImageRef) -> InspectionEvent | None:
        try:
            return InspectionEvent.model_validate_json(self._results.get(f"{image_ref.stem}.json"))
        except (FileNotFoundError, ValidationError):
            return None

    async def _dead_letter(self, message: Message, reason: str) -> None:
        await dead_letter(self._js, DEAD, NAME, message, reason)


async def _reconcile_periodically(config: Settings) -> None:
    """Publish missing events of images once a minute. Runs until cancelled."""
    while True:
        await asyncio.sleep(_RECONCILE_INTERVAL_S)
        try:
            found = await reconcile(config)
            if found:
                log.warning("%d images had no result; their events were published", found)
        except (OSError, TimeoutError, ConnectionError) as error:
            log.warning("reconciliation failed, will retry: %s", error)


async def main(config: Settings) -> None:
    """Run until cancelled."""
    nc = await connect(config, "inspection-worker", timeout_s=60.0)
    champion = ServedModel(config, DESIGN, read_model)
    await asyncio.to_thread(champion.load)
    inbox, results = Lake(config, config.inbox), Lake(config, config.results)
    worker = InspectionWorker(nc.jetstream(), inbox, results, champion)
    consumer = OrderedConsumer(nc, STREAM, NAME, f"{IMAGE}.>", BATCH)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(champion.watch(nc))
            group.create_task(report_lag({NAME: consumer}))
            group.create_task(_reconcile_periodically(config))
            group.create_task(consume(consumer, worker.handle))
    finally:
        await nc.close()
