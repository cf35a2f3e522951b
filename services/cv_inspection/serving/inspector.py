"""The inspector: a pool of threads that inspects posted images, and the connections it needs."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.cv_inspection.ingestion.events import INSPECTION, ImageRef, InspectionEvent
from services.cv_inspection.serving.inspect import InspectionResult, inspect
from services.cv_inspection.serving.model import DESIGN, ImageModel, read_model
from services.platform.models.served_model import ServedModel
from services.platform.settings import Settings
from services.platform.streaming.connection import open_connection
from services.platform.streaming.outbox import Outbox
from services.platform.telemetry import OUTBOX_DEPTH, OUTBOX_DROPPED, Stages

_THREADS = 2
# Images that may wait while others are inspected; at 10 ms each, this fits the latency budget.
_MAX_WAITING = 8


class QueueFull(RuntimeError):
    """Too many images are waiting to be inspected within the latency budget."""


class Inspector:
    """Inspects posted images in threads, and queues the results for the stream."""

    def __init__(self, champion: ServedModel[ImageModel], outbox: Outbox) -> None:
        self._champion = champion
        self._outbox = outbox
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="inspect")
        self._in_flight = 0

    async def inspect(
        self, data: bytes, image_ref: ImageRef, stages: Stages
    ) -> InspectionResult | None:
        """Inspect one image and queue the result. None while there is no model.

        Raises:
            InvalidImage: the file is not an image that a camera sends.
            QueueFull: too many images are waiting.
        """
        model = self._champion.model
        if model is None:
            return None
        if self._in_flight >= _THREADS + _MAX_WAITING:
            raise QueueFull
        self._in_flight += 1
        try:
            loop = asyncio.get_running_loop()
            begin = perf_counter()
            result = await loop.run_in_executor(
                self._pool, inspect, model, data, image_ref, datetime.now(UTC)
            )
        finally:
            self._in_flight -= 1
        waited = perf_counter() - begin - sum(result.stages.values())
        stages.add({"wait": waited, **result.stages})
        self.publish(result.event)
        stages.mark("encode")
        return result

    def publish(self, event: InspectionEvent) -> None:
        """Queue an inspection for the stream."""
        subject = f"{INSPECTION}.{event.place.line}"
        self._outbox.put(subject, event.inspection_id, event.model_dump_json().encode())

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class InspectorProcess:
    """An inspector and its open connections."""

    inspector: Inspector
    champion: ServedModel[ImageModel]
    outbox: Outbox
    nats: Client


@asynccontextmanager
async def open_inspector(config: Settings) -> AsyncIterator[InspectorProcess]:
    """Open what the inspector needs, and close it afterwards. NATS may start later."""
    nc, connecting = open_connection(config, "inspector")
    champion = ServedModel(config, DESIGN, read_model)
    await asyncio.to_thread(champion.load)
    max_bytes = config.outbox_megabytes << 20
    outbox = Outbox(nc, config.home / "inspector", config.outbox_events, max_bytes)
    outbox.start()
    inspector = Inspector(champion, outbox)
    tasks = [
        connecting,
        asyncio.create_task(champion.watch(nc)),
        asyncio.create_task(_set_gauges(outbox)),
    ]
    try:
        yield InspectorProcess(inspector, champion, outbox, nc)
    finally:
        for task in tasks:
            task.cancel()
        inspector.close()
        await outbox.close()
        with suppress(NatsError, TimeoutError):
            await nc.close()


async def _set_gauges(outbox: Outbox) -> None:
    while True:
        OUTBOX_DEPTH.set(outbox.depth)
        OUTBOX_DROPPED.set(outbox.dropped)
        await asyncio.sleep(1.0)
