"""The inspection worker: fetch, inspect, store the result, publish it, acknowledge.

Any number of workers share the images. If one is killed in between, another repeats the work: a
stored result of the same key and bytes is published again, not computed again. Within two minutes
the stream drops the second event with the same inspection id (`DUPLICATE_WINDOW`); of later ones,
readers count the first. An invalid file gets a result that says why, and a dead letter. So does an
object that the store can't read after some retries, which stop neither the line nor the batch.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from functools import partial

import orjson
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from prometheus_client import Histogram
from pydantic import ValidationError

from services.cv_inspection.ingestion.events import (
    DEAD,
    IMAGE,
    STREAM,
    ImageRef,
    InspectionEvent,
    inspection_id,
    inspection_subject,
    parse_image,
)
from services.cv_inspection.ingestion.images import READ_BYTES, InvalidImage
from services.cv_inspection.ingestion.reconciliation import reconcile
from services.cv_inspection.model import ImageModel, read_model
from services.cv_inspection.problem import DESIGN
from services.cv_inspection.serving.inspect import inspect
from services.platform.models.served_model import ServedModel
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import Message, consume, dead_letter
from services.platform.streaming.lag import report_lag
from services.platform.streaming.retry import retry_forever
from services.platform.streaming.shared_consumer import SharedConsumer
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

NAME = "inspection"
# The consumer that all workers share; one of before had `NAME` and a single owner.
DURABLE = "inspection-workers"
BATCH = 16
_CONCURRENCY = 4
_RECONCILE_INTERVAL_S, _BACKLOG_INTERVAL_S = 60.0, 1.0
# How often it looks for a moment without a backlog; a line may never have one.
_MAX_LOOKS = 600
# Seconds before each retry of an object that can't be read while others can: half a minute in all.
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0)
# More unreadable objects at once are an outage, and the line waits for its end.
_MAX_RETRIES = 64
_PROBE = ".probe"

INSPECTION_SECONDS = Histogram(
    "inspection_delay_seconds",
    "From storing an image's event in the stream until its result is stored",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60),
)


class NoModel(TimeoutError):
    """There is no model yet; the batch is retried."""


class ObjectUnreadable(RuntimeError):
    """The store answers, but not for this object."""


class InspectionWorker:
    """Inspects the images of the stream's events."""

    def __init__(
        self,
        js: JetStreamContext,
        inbox: Lake,
        results: Lake,
        champion: ServedModel[ImageModel],
        audit_share: float,
    ) -> None:
        self._audit_share = audit_share
        self._js = js
        self._inbox = inbox
        self._results = results
        self._champion = champion
        self._slots = asyncio.Semaphore(_CONCURRENCY)
        self._retry_slots = asyncio.Semaphore(_CONCURRENCY)
        self._retries: dict[str, asyncio.Task[None]] = {}

    async def handle(self, batch: list[Message]) -> None:
        """Inspect one batch, a few images at a time.

        An object that the store can't read is retried beside the next batches.

        Raises:
            OSError, nats.errors.Error, NoModel: retry the same batch.
        """
        self._model()
        inspections = (self._handle_message(message) for message in batch)
        outcomes = await asyncio.gather(*inspections, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        now = time.time()
        for message, outcome in zip(batch, outcomes, strict=True):
            EVENTS.labels(NAME, str(outcome)).inc()
            if outcome != "deferred":
                INSPECTION_SECONDS.observe(max(now - message.published_us / 1e6, 0.0))

    async def close(self) -> None:
        """Stop the retries; the reconciliation finds their images again."""
        await cancel_tasks(*self._retries.values())

    def _model(self) -> ImageModel:
        model = self._champion.model
        if model is None:
            raise NoModel("no model is loaded yet")
        return model

    async def _handle_message(self, message: Message) -> str:
        """Inspect the image of one message. Returns inspected, known, dead or deferred."""
        try:
            key = parse_image(message).key
            image_ref = ImageRef.from_key(key)
        except ValueError as error:
            await self._dead_letter(message, str(error))
            return "dead"
        if key in self._retries:
            return "deferred"
        try:
            return await self._inspect(self._slots, message, key, image_ref)
        except ObjectUnreadable as error:
            if len(self._retries) >= _MAX_RETRIES:
                raise OSError(f"{_MAX_RETRIES} objects can't be read; {error}") from error
            log.warning("%s; it is retried, the others go on", error)
            retry = self._retry(message, key, image_ref)
            self._retries[key] = asyncio.create_task(retry, name=key)
            return "deferred"

    async def _retry(self, message: Message, key: str, image_ref: ImageRef) -> None:
        """Retry an object that can't be read, and dead-letter it after the last attempt.

        An outage of the store or of NATS is not counted as an attempt.
        """
        inspection = partial(self._inspect, self._retry_slots, message, key, image_ref)
        reason, outcome = "", "dead"
        try:
            for delay in _BACKOFF_S:
                await asyncio.sleep(delay)
                try:
                    outcome = await retry_forever(inspection, key)
                    break
                except ObjectUnreadable as error:
                    reason = str(error)
            else:
                refuse = partial(asyncio.to_thread, self._store_error, key, image_ref, reason)
                await retry_forever(refuse, key)
                await retry_forever(partial(self._dead_letter, message, reason), key)
            EVENTS.labels(NAME, outcome).inc()
        finally:
            del self._retries[key]

    async def _inspect(
        self, slots: asyncio.Semaphore, message: Message, key: str, image_ref: ImageRef
    ) -> str:
        """Inspect one image and publish the result. Returns inspected, known or dead.

        Raises:
            ObjectUnreadable: the store answers, but not for this object.
            OSError, nats.errors.Error, NoModel: an engine or the model is not available.
        """
        async with slots:
            try:
                data = await asyncio.to_thread(self._fetch, key)
                event, outcome = await asyncio.to_thread(
                    self._inspect_and_store, self._model(), message, key, image_ref, data
                )
            except FileNotFoundError:
                await self._dead_letter(message, f"{key}: the object no longer exists")
                return "dead"
            except ValueError as error:
                await self._dead_letter(message, str(error))
                return "dead"
            headers = {"Nats-Msg-Id": event.inspection_id}
            body = event.model_dump_json().encode()
            await self._js.publish(inspection_subject(event), body, headers=headers)
            return outcome

    def _fetch(self, key: str) -> bytes:
        """An object's bytes.

        Raises:
            FileNotFoundError: it does not exist.
            ObjectUnreadable: the store reads others.
            OSError: the store reads no object.
        """
        try:
            return self._inbox.get(key, READ_BYTES)
        except FileNotFoundError:
            raise
        except OSError as error:
            self._check_store()
            raise ObjectUnreadable(f"{key}: {error}") from error

    def _check_store(self) -> None:
        """Write and read an object: the bucket would answer with all its volumes gone, too.

        OSError if that fails.
        """
        self._results.put(_PROBE, b"whether objects can be written and read")
        if not self._results.get(_PROBE):
            raise OSError("the store reads no object")

    def _inspect_and_store(
        self, model: ImageModel, message: Message, key: str, image_ref: ImageRef, data: bytes
    ) -> tuple[InspectionEvent, str]:
        """The image's inspection, stored before or now, and whether it is known or inspected."""
        known, result_key = self._stored_result(image_ref), f"{image_ref.stem}.json"
        if known is not None and known.inspection_id == inspection_id(image_ref, data):
            # The image may have been put again: a result that is older than it would be missed.
            self._results.put(result_key, known.model_dump_json().encode())
            return known, "known"
        at = datetime.fromtimestamp(message.published_us / 1e6, UTC)
        try:
            result = inspect(model, data, image_ref, at, key, self._audit_share)
        except InvalidImage as error:
            self._store_error(key, image_ref, str(error))
            raise
        self._results.put(f"{image_ref.stem}.mask.png", result.mask_png)
        self._results.put(f"{image_ref.stem}.map.png", result.map_png)
        self._results.put(result_key, result.event.model_dump_json().encode())
        return result.event, "inspected"

    def _stored_result(self, image_ref: ImageRef) -> InspectionEvent | None:
        try:
            return InspectionEvent.model_validate_json(self._results.get(f"{image_ref.stem}.json"))
        except (FileNotFoundError, ValidationError):
            return None

    def _store_error(self, key: str, image_ref: ImageRef, reason: str) -> None:
        """Store why an image has no inspection, so that the reconciliation leaves it alone."""
        self._results.put(f"{image_ref.stem}.json", orjson.dumps({"key": key, "error": reason}))

    async def _dead_letter(self, message: Message, reason: str) -> None:
        await dead_letter(self._js, DEAD, NAME, message, reason)


async def _reconcile_periodically(config: Settings, consumer: SharedConsumer) -> None:
    """Publish missing events of images once a minute. Runs until cancelled."""
    while True:
        await asyncio.sleep(_RECONCILE_INTERVAL_S)
        try:
            # Images whose events still wait have no result yet, and are not lost.
            for _ in range(_MAX_LOOKS):
                if not await consumer.lag():
                    break
                await asyncio.sleep(_BACKLOG_INTERVAL_S)
            found = await reconcile(config)
            if found:
                log.warning("%d images had no result; their events were published", found)
        except (OSError, NatsError) as error:
            log.warning("reconciliation failed, will retry: %s", str(error) or type(error).__name__)


async def main(config: Settings) -> None:
    """Run until cancelled."""
    nc = await connect(config, "inspection-worker", timeout_s=60.0)
    champion = ServedModel(config, DESIGN, read_model)
    await asyncio.to_thread(champion.load)
    inbox, results = Lake(config, config.inbox), Lake(config, config.results)
    worker = InspectionWorker(nc.jetstream(), inbox, results, champion, config.audit_share)
    consumer = SharedConsumer(nc, STREAM, DURABLE, f"{IMAGE}.>", BATCH, before=NAME)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(champion.watch(nc))
            group.create_task(report_lag({NAME: consumer}))
            group.create_task(_reconcile_periodically(config, consumer))
            group.create_task(consume(consumer, worker.handle))
    finally:
        await worker.close()
        await nc.close()
