"""Stations of the line: put images into the store, post others, and measure the inspections.

Open loop: each image has its scheduled time, and its delay counts from that time. Operators are
simulated, too: the true class of every inspected image of the store is posted as its label.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

import aiohttp
import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from services.cv_inspection.ingestion.events import DECISIONS_STREAM, InspectionEvent
from services.cv_inspection.problem import GOOD
from services.cv_inspection.service import INSPECTOR
from services.cv_inspection.simulator.camera import LINES, LIVE_FROM, Camera, Shot
from services.cv_inspection.simulator.drift import CameraDrift
from services.platform.progress import ProgressCallback
from services.platform.runtime.client import open_session, post
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_bucket
from services.platform.streaming.consumer import Message, OrderedConsumer, consume
from services.platform.streaming.retry import retry_forever

BUCKET = "simulator"
_NAME = "station"
_CURSOR = "cv.cursor"
_DRAIN_TIMEOUT_S = 20.0
_TIMEOUT_S = 10.0


@dataclass
class StationReport:
    """What the stations measured.

    Attributes:
        landed: Images put into the store.
        delay_ms: From the scheduled time of an image in the store to its inspection, by image.
        posted_ms: From the scheduled time of a posted image to its response, by image.
        published: By key, the sequence numbers of an image's inspections in the stream. Two numbers
            are a duplicate; one number delivered twice (NATS lost an acknowledgement) is not.
        stopped: Whether an image of the store was stopped, in order of inspection.
        defect: Whether it has a defect, in the same order.
        reviews: Images sent to a person.
        labels: Labels accepted.
        failures: Posts without a response, by reason.
        seconds: Duration of the run.
    """

    landed: int = 0
    delay_ms: list[float] = field(default_factory=list)
    posted_ms: list[float] = field(default_factory=list)
    published: dict[str, set[int]] = field(default_factory=dict)
    stopped: list[bool] = field(default_factory=list)
    defect: list[bool] = field(default_factory=list)
    reviews: int = 0
    labels: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """Images in the store without an inspection in the stream."""
        return self.landed - len(self.published)

    @property
    def duplicates(self) -> int:
        """Inspections published more than once."""
        return sum(len(numbers) - 1 for numbers in self.published.values())

    def record_inspection(self, key: str, seq: int) -> bool:
        """Record an inspection's sequence number. False if its image has one already."""
        first = key not in self.published
        self.published.setdefault(key, set()).add(seq)
        return first

    def count_failure(self, reason: str) -> None:
        """Count a post without a response."""
        self.failures[reason] = self.failures.get(reason, 0) + 1


class Station:
    """Puts and posts images, and consumes their inspections."""

    def __init__(self, config: Settings, nc: Client, http: aiohttp.ClientSession) -> None:
        self._inbox = Lake(config, config.inbox)
        self._url = INSPECTOR.url(config)
        self._operator = {"Authorization": f"Bearer {config.plain_label_token}"}
        self._nc = nc
        self._http = http
        self._due: dict[str, tuple[float, Shot]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.report = StationReport()

    async def run(
        self,
        camera: Camera,
        first: int,
        rate: float,
        post_rate: float,
        seconds: float,
        step: ProgressCallback,
    ) -> int:
        """Put `rate` images a second and post `post_rate`. Returns the next image's number."""
        async with self._consuming():
            # The first image of each line generates its surface, which takes a second.
            for number in range(len(LINES)):
                await asyncio.to_thread(camera.shot, first + number)
            begin = time.perf_counter()
            puts, posts = round(rate * seconds), round(post_rate * seconds)
            # Puts and posts have their own images, so that both cover all lines in turn.
            schedule = [(begin + i / rate, first + i, self._put) for i in range(puts)]
            schedule += [
                (begin + i / post_rate, first + puts + i, self._post) for i in range(posts)
            ]
            schedule.sort(key=itemgetter(0))
            for done, (due, number, send) in enumerate(schedule, start=1):
                shot = await asyncio.to_thread(camera.shot, number)
                await asyncio.sleep(max(due - time.perf_counter(), 0.0))
                self._start(send(shot, due))
                step(done, len(schedule))
            await self._drain(puts)
            self.report.seconds = time.perf_counter() - begin
            return first + len(schedule)

    @asynccontextmanager
    async def _consuming(self) -> AsyncIterator[None]:
        """Consume the inspections that are published from now on."""
        js = self._nc.jetstream()
        before = (await js.stream_info(DECISIONS_STREAM)).state.last_seq
        inspections = OrderedConsumer(self._nc, DECISIONS_STREAM, _NAME)
        consuming = asyncio.create_task(consume(inspections, self._on_batch, after=before))
        try:
            yield
        finally:
            await cancel_tasks(consuming)
            with suppress(NatsError, OSError, TimeoutError):
                await inspections.delete()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _put(self, shot: Shot, due: float) -> None:
        self._due[shot.key] = (due, shot)
        await asyncio.to_thread(self._inbox.put, shot.key, shot.jpeg())
        self.report.landed += 1

    async def _post(self, shot: Shot, due: float) -> None:
        query = {"line": shot.line, "station": shot.station, "lot": shot.lot, "frame": shot.frame}
        try:
            url = f"{self._url}{INSPECTOR.route}"
            status, body = await post(self._http, url, params=query, data=shot.jpeg())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.report.count_failure(str(error) or type(error).__name__)
            return
        if status != 200:
            self.report.count_failure(f"{status}: {body[:200].decode(errors='replace')}")
            return
        self.report.posted_ms.append((time.perf_counter() - due) * 1e3)

    async def _on_batch(self, batch: list[Message]) -> None:
        """Handle inspections of the stream, which may deliver one twice."""
        for message in batch:
            self._on_inspection(InspectionEvent.model_validate_json(message.data), message.seq)

    def _on_inspection(self, event: InspectionEvent, seq: int) -> None:
        key = event.key or ""
        if key not in self._due:
            return
        due, shot = self._due[key]
        if not self.report.record_inspection(key, seq):
            return
        self.report.delay_ms.append((time.perf_counter() - due) * 1e3)
        self.report.stopped.append(event.stopped)
        self.report.defect.append(shot.label != GOOD)
        self.report.reviews += event.decision == "review"
        self._start(self._post_label(event.inspection_id, shot.label))

    async def _post_label(self, identity: str, label: str) -> None:
        body = orjson.dumps({"inspection_id": identity, "label": label, "by": "simulator"})
        try:
            url = f"{self._url}/verdict"
            status, _ = await post(self._http, url, data=body, headers=self._operator)
            self.report.labels += status == 202
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.report.count_failure(f"label: {error}")

    async def _drain(self, puts: int) -> None:
        """Wait for inspections and posts that are not finished."""
        end = time.perf_counter() + _DRAIN_TIMEOUT_S
        while (len(self.report.published) < puts or self._tasks) and time.perf_counter() < end:
            await asyncio.sleep(0.05)


async def run_stations(
    config: Settings,
    seed: int,
    rate: float,
    post_rate: float,
    seconds: float,
    step: ProgressCallback,
    drift: CameraDrift | None = None,
) -> StationReport:
    """Run the stations for some seconds, from the image where the last run stopped.

    Args:
        rate: Images a second put into the store.
        post_rate: Images a second posted to the inspector.
        drift: Of the camera; none if None.

    Raises:
        ConnectionError: NATS does not answer.
        OSError: S3 does not answer.
    """
    nc = await connect(config, "station")
    try:
        first = await _cursor(nc)
        async with open_session(_TIMEOUT_S) as http:
            station = Station(config, nc, http)
            camera = Camera(seed, drift=drift)
            last = await station.run(camera, first, rate, post_rate, seconds, step)
        bucket = await retry_forever(partial(nc.jetstream().key_value, BUCKET), "the cursor")
        await retry_forever(partial(bucket.put, _CURSOR, str(last).encode()), "the cursor")
        return station.report
    finally:
        await nc.close()


async def _cursor(nc: Client) -> int:
    """Number of the next image; no image is taken twice."""
    bucket = await ensure_bucket(nc.jetstream(), BUCKET)
    try:
        return int((await bucket.get(_CURSOR)).value or LIVE_FROM)
    except NotFoundError:
        return LIVE_FROM
