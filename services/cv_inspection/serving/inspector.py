"""The inspector: a pool of threads that inspects posted images."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import perf_counter
from typing import TypeVar

from services.cv_inspection.ingestion.events import ImageRef, InspectionEvent, inspection_subject
from services.cv_inspection.model import ImageModel
from services.cv_inspection.serving.inspect import InspectionResult, inspect
from services.cv_inspection.serving.known import KnownInspections
from services.platform.models.served_model import ServedModel
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.outbox import Outbox
from services.platform.telemetry import Stages

_THREADS = 2
# Images that may wait while others are inspected: at 14 ms each and two at a time, the last waits
# 56 ms. More would only wait longer.
_MAX_WAITING = 8

Encoded = TypeVar("Encoded")


class QueueFull(RuntimeError):
    """Too many images are waiting to be inspected within the latency budget."""


class Inspector:
    """Inspects posted images in threads, and queues the results for the stream.

    Attributes:
        known: The inspections there are.
    """

    def __init__(
        self,
        champion: ServedModel[ImageModel],
        outbox: Outbox,
        known: KnownInspections,
        audit_share: float = 0.0,
    ) -> None:
        """Start the threads.

        Args:
            audit_share: Share of passed parts that a person looks at.
        """
        self.known = known
        self._audit_share = audit_share
        self._champion = champion
        self._outbox = outbox
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="inspect")
        self._in_flight = 0

    async def inspect(
        self,
        data: bytes,
        image_ref: ImageRef,
        stages: Stages,
        encode: Callable[[InspectionResult], Encoded],
    ) -> tuple[InspectionEvent, Encoded] | None:
        """Inspect one image and queue the result. None while there is no model.

        Args:
            encode: Makes the response of the result, in the same thread: masks are large.

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
            at, share = datetime.now(UTC), self._audit_share

            def work() -> tuple[InspectionResult, Encoded, float]:
                result = inspect(model, data, image_ref, at, None, share)
                inspected = perf_counter()
                return result, encode(result), perf_counter() - inspected

            result, encoded, encode_s = await loop.run_in_executor(self._pool, work)
        finally:
            self._in_flight -= 1
        returned = perf_counter()
        self.publish(result.event)
        took = {**result.stages, "encode": encode_s + perf_counter() - returned}
        stages.add({"wait": perf_counter() - begin - sum(took.values()), **took})
        return result.event, encoded

    def publish(self, event: InspectionEvent) -> None:
        """Queue an inspection for the stream."""
        self.known.add(event.inspection_id)
        self._outbox.put(
            inspection_subject(event), event.inspection_id, event.model_dump_json().encode()
        )

    def readiness(self) -> dict[str, bool | str | int]:
        """How many images are being inspected or wait."""
        return {"images_in_flight": self._in_flight}

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@asynccontextmanager
async def open_inspector(
    config: Settings, champion: ServedModel[ImageModel], outbox: Outbox
) -> AsyncIterator[Inspector]:
    """An inspector, whose threads are stopped at exit."""
    known = KnownInspections(Lake(config), outbox)
    inspector = Inspector(champion, outbox, known, config.audit_share)
    knowing = asyncio.create_task(known.run())
    try:
        yield inspector
    finally:
        await cancel_tasks(knowing)
        inspector.close()
