"""Stations of the line: put images into the store, post others, and measure the inspections.

Open loop: each image has its scheduled time, and its delay counts from that time. Operators and
customers are simulated, too. An operator looks at each part of the store that was stopped or is
audited, and posts its true class as its label; a customer sends a defect that passed back later
(`returns`). A good part that passed has no label.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import aiohttp
import orjson
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.cv_inspection.ingestion.events import (
    DECISIONS_STREAM,
    InspectionEvent,
    parse_inspection,
)
from services.cv_inspection.problem import GOOD
from services.cv_inspection.service import INSPECTOR
from services.cv_inspection.simulator.camera import LINES, Camera, Shot
from services.cv_inspection.simulator.drift import CameraDrift
from services.cv_inspection.simulator.image_numbers import ImageNumbers
from services.cv_inspection.simulator.returns import Returns
from services.platform.progress import ProgressCallback
from services.platform.runtime.client import open_session, post
from services.platform.runtime.tasks import cancel_tasks
from services.platform.runtime.tokens import client_headers
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_bucket
from services.platform.streaming.consumer import Message, OrderedConsumer, consume

BUCKET = "simulator"
_NAME = "station"
_DRAIN_TIMEOUT_S = 20.0
_TIMEOUT_S = 10.0
_RETRY_S = 1.0


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
        audits: Images that passed and a person looks at.
        labels: Labels accepted, of operators and customers.
        returned: Those of customers.
        failures: Puts that failed twice and posts without a response, by reason.
        seconds: Duration of the run.
    """

    landed: int = 0
    delay_ms: list[float] = field(default_factory=list)
    posted_ms: list[float] = field(default_factory=list)
    published: dict[str, set[int]] = field(default_factory=dict)
    stopped: list[bool] = field(default_factory=list)
    defect: list[bool] = field(default_factory=list)
    reviews: int = 0
    audits: int = 0
    labels: int = 0
    returned: int = 0
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
        """Count a put or post that failed."""
        self.failures[reason] = self.failures.get(reason, 0) + 1


class Station:
    """Puts and posts images, and consumes their inspections."""

    def __init__(
        self,
        config: Settings,
        nc: Client,
        http: aiohttp.ClientSession,
        returns: Returns,
        report: StationReport,
    ) -> None:
        self._inbox = Lake(config, config.inbox)
        self._url = INSPECTOR.url(config)
        self._client = client_headers(config)
        self._operator = {"Authorization": f"Bearer {config.plain_label_token}"}
        self._nc = nc
        self._http = http
        self._returns = returns
        self._image = 0
        self._due: dict[str, tuple[float, Shot]] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self.report = report

    async def run(
        self,
        camera: Camera,
        numbers: ImageNumbers,
        rate: float,
        post_rate: float,
        seconds: float,
        step: ProgressCallback,
    ) -> None:
        """Put `rate` images a second and post `post_rate`."""
        async with self._consuming():
            # The first image of each line generates its surface, which takes a second.
            for number in range(len(LINES)):
                await asyncio.to_thread(camera.shot, numbers.next + number)
            begin = time.perf_counter()
            # Puts and posts have laps of their own, so that both cover all stations in turn.
            kinds = ((rate, numbers.laps(), self._put), (post_rate, numbers.laps(), self._post))
            schedule = [
                (begin + i / hertz, laps, send)
                for hertz, laps, send in kinds
                for i in range(round(hertz * seconds))
            ]
            schedule.sort(key=itemgetter(0))
            try:
                for done, (due, laps, send) in enumerate(schedule, start=1):
                    shot = await asyncio.to_thread(camera.shot, next(laps))
                    await asyncio.sleep(max(due - time.perf_counter(), 0.0))
                    self._start(send(shot, due))
                    self._image = numbers.next
                    for identity, label in self._returns.take(self._image).items():
                        self._start(self._label_return(identity, label))
                    step(done, len(schedule))
            finally:
                await self._drain()
                self.report.seconds = time.perf_counter() - begin

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

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        task: asyncio.Task[object] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _put(self, shot: Shot, due: float) -> None:
        """Put an image into the store, again if that fails; a second failure is counted."""
        self._due[shot.key] = (due, shot)
        data = shot.jpeg()
        try:
            try:
                await asyncio.to_thread(self._inbox.put, shot.key, data)
            except OSError:
                await asyncio.sleep(_RETRY_S)
                await asyncio.to_thread(self._inbox.put, shot.key, data)
        except OSError as error:
            del self._due[shot.key]
            self.report.count_failure(f"store: {error}")
            return
        self.report.landed += 1

    async def _post(self, shot: Shot, due: float) -> None:
        query = {"line": shot.line, "station": shot.station, "lot": shot.lot, "frame": shot.frame}
        try:
            url = f"{self._url}{INSPECTOR.route}"
            status, body = await post(
                self._http, url, params=query, data=shot.jpeg(), headers=self._client
            )
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
            with suppress(ValueError):  # the lake writer dead-letters what can't be read
                self._on_inspection(parse_inspection(message.data), message.seq)

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
        self.report.audits += event.audit
        if event.stopped or event.audit:
            self._start(self._post_label(event.inspection_id, shot.label, "simulator"))
        elif shot.label != GOOD:
            self._start(self._returns.send_out(event.inspection_id, shot.label, self._image))

    async def _label_return(self, identity: str, label: str) -> None:
        """Label a returned part; one whose label was not taken comes back again."""
        if await self._post_label(identity, label, "customer"):
            self.report.returned += 1
            await self._returns.store()
        else:
            await self._returns.send_out(identity, label, self._image)

    async def _post_label(self, identity: str, label: str, by: str) -> bool:
        """Post a label. Returns whether it was accepted."""
        body = orjson.dumps({"inspection_id": identity, "label": label, "by": by})
        try:
            url = f"{self._url}/verdict"
            status, _ = await post(self._http, url, data=body, headers=self._operator)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.report.count_failure(f"label: {error}")
            return False
        self.report.labels += status == 202
        return status == 202

    async def _drain(self) -> None:
        """Wait for inspections, puts and posts that are not finished."""
        end = time.perf_counter() + _DRAIN_TIMEOUT_S
        while (self.report.lost > 0 or self._tasks) and time.perf_counter() < end:
            await asyncio.sleep(0.05)


async def run_stations(
    config: Settings,
    report: StationReport,
    seed: int,
    rate: float,
    post_rate: float,
    seconds: float,
    step: ProgressCallback,
    drift: CameraDrift | None = None,
) -> None:
    """Run the stations for some seconds, from the image where the last run stopped.

    Args:
        report: What is measured is added to it, also where the run is cancelled.
        rate: Images a second put into the store.
        post_rate: Images a second posted to the inspector.
        drift: Of the camera; none if None.

    Raises:
        ConnectionError: NATS does not answer.
        OSError: S3 does not answer.
    """
    nc = await connect(config, "station")
    try:
        bucket = await ensure_bucket(nc.jetstream(), BUCKET)
        numbers, returns = await ImageNumbers.open(bucket), await Returns.open(bucket)
        async with open_session(_TIMEOUT_S) as http:
            station = Station(config, nc, http, returns, report)
            camera = Camera(seed, drift=drift)
            await station.run(camera, numbers, rate, post_rate, seconds, step)
        await numbers.close()
    finally:
        await nc.close()
