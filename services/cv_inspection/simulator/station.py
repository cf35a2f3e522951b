"""A station of the line: puts pictures into the store, posts some, and reports what came of them.

Open loop: each picture has its moment, and its delay counts from that moment. The operator is
simulated too: for every picture that was judged, the true class is posted as a verdict.
"""

import asyncio
import time
from collections.abc import Coroutine
from contextlib import suppress
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
from services.cv_inspection.simulator.camera import LINES, LIVE_FROM, Camera, Shot
from services.cv_inspection.simulator.drift import Drift
from services.platform.progress import Step
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import (
    Delivered,
    OrderedConsumer,
    connect,
    consume,
    ensure_bucket,
    insist,
)

BUCKET = "simulator"
_NAME = "station"
_CURSOR = "cv.cursor"
_PATIENCE_S = 20.0
_TIMEOUT_S = 10.0


@dataclass
class Report:
    """What the stations saw.

    Attributes:
        landed: Pictures put into the store. delay_ms: From the moment a picture was due in the
            store to its inspection being told. posted_ms: The same of posted pictures, to their
            answer. told: Where in the stream a picture's inspection was told, by key: more than one
            place is a duplicate, one place heard twice (NATS died and forgot what was heard) none.
        stopped, defect: Of the pictures in the store that were judged, in one order.
        failures: Posts without an answer, by reason.
    """

    landed: int = 0
    delay_ms: list[float] = field(default_factory=list)
    posted_ms: list[float] = field(default_factory=list)
    told: dict[str, set[int]] = field(default_factory=dict)
    stopped: list[bool] = field(default_factory=list)
    defect: list[bool] = field(default_factory=list)
    reviews: int = 0
    verdicts: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        """Pictures in the store that nobody told of."""
        return self.landed - len(self.told)

    @property
    def duplicates(self) -> int:
        """Inspections told more than once."""
        return sum(len(places) - 1 for places in self.told.values())

    def hear(self, key: str, seq: int) -> bool:
        """Note where in the stream an inspection was told. False if it was told before."""
        first = key not in self.told
        self.told.setdefault(key, set()).add(seq)
        return first

    def fail(self, why: str) -> None:
        """Count a post without an answer."""
        self.failures[why] = self.failures.get(why, 0) + 1


class Station:
    """Puts and posts pictures, and listens for what comes of them."""

    def __init__(self, config: Settings, nc: Client, http: aiohttp.ClientSession) -> None:
        self._inbox = Lake(config, config.inbox)
        self._url = config.inspector
        self._nc = nc
        self._http = http
        self._due: dict[str, tuple[float, Shot]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.report = Report()

    async def run(
        self, camera: Camera, first: int, rate: float, post_rate: float, seconds: float, step: Step
    ) -> int:
        """Put `rate` pictures a second and post `post_rate`. Returns the next picture's number."""
        js = self._nc.jetstream()
        before = (await js.stream_info(DECISIONS_STREAM)).state.last_seq
        told = OrderedConsumer(self._nc, DECISIONS_STREAM, _NAME)
        hearing = asyncio.create_task(consume(told, self._hear, after=before))
        try:
            return await self._play(camera, first, rate, post_rate, seconds, step)
        finally:
            hearing.cancel()
            with suppress(NatsError, OSError, TimeoutError):
                await told.forget()

    async def _play(
        self, camera: Camera, first: int, rate: float, post_rate: float, seconds: float, step: Step
    ) -> int:
        # The first picture of each line makes its surface, which takes a second.
        for number in range(len(LINES)):
            await asyncio.to_thread(camera.shot, first + number)
        begin = time.perf_counter()
        puts, posts = round(rate * seconds), round(post_rate * seconds)
        # Each has its own run of pictures, so that both see all lines in turn.
        moments = [(begin + i / rate, first + i, self._put) for i in range(puts)]
        moments += [(begin + i / post_rate, first + puts + i, self._post) for i in range(posts)]
        moments.sort(key=itemgetter(0))
        for done, (due, number, send) in enumerate(moments, start=1):
            shot = await asyncio.to_thread(camera.shot, number)
            await asyncio.sleep(max(due - time.perf_counter(), 0.0))
            self._start(send(shot, due))
            step(done, len(moments))
        await self._rest(puts)
        self.report.seconds = time.perf_counter() - begin
        return first + len(moments)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _put(self, shot: Shot, due: float) -> None:
        self._due[shot.key] = (due, shot)
        await asyncio.to_thread(self._inbox.put, shot.key, shot.jpeg())
        self.report.landed += 1

    async def _post(self, shot: Shot, due: float) -> None:
        place = {"line": shot.line, "station": shot.station, "lot": shot.lot, "frame": shot.frame}
        try:
            url = f"{self._url}/inspect"
            async with self._http.post(url, params=place, data=shot.jpeg()) as response:
                answer = await response.read()
                if response.status != 200:
                    self.report.fail(f"{response.status}: {answer[:200].decode(errors='replace')}")
                    return
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.report.fail(str(error) or type(error).__name__)
            return
        self.report.posted_ms.append((time.perf_counter() - due) * 1e3)

    async def _hear(self, batch: list[Delivered]) -> None:
        """What the worker told, as the stream has it: it may have to say a thing twice."""
        for message in batch:
            self._heard(InspectionEvent.model_validate_json(message.data), message.seq)

    def _heard(self, event: InspectionEvent, seq: int) -> None:
        key = event.key or ""
        if key not in self._due:
            return
        due, shot = self._due[key]
        if not self.report.hear(key, seq):
            return
        self.report.delay_ms.append((time.perf_counter() - due) * 1e3)
        self.report.stopped.append(event.stopped)
        self.report.defect.append(shot.label != GOOD)
        self.report.reviews += event.decision == "review"
        self._start(self._verdict(event.inspection_id, shot.label))

    async def _verdict(self, identity: str, label: str) -> None:
        body = orjson.dumps({"inspection_id": identity, "label": label, "by": "simulator"})
        try:
            async with self._http.post(f"{self._url}/verdict", data=body) as response:
                self.report.verdicts += response.status == 202
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.report.fail(f"verdict: {error}")

    async def _rest(self, puts: int) -> None:
        """Wait for what is still under way."""
        end = time.perf_counter() + _PATIENCE_S
        while (len(self.report.told) < puts or self._tasks) and time.perf_counter() < end:
            await asyncio.sleep(0.05)


async def play(
    config: Settings,
    seed: int,
    rate: float,
    post_rate: float,
    seconds: float,
    step: Step,
    drift: Drift | None = None,
) -> Report:
    """Run the stations for some seconds, from where they last stopped.

    Args:
        rate: Pictures a second into the store. post_rate: Pictures a second posted.

    Raises:
        ConnectionError: NATS does not answer. OSError: S3 does not.
    """
    nc = await connect(config, "station")
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        first = await _cursor(nc)
        async with aiohttp.ClientSession(timeout=timeout) as http:
            station = Station(config, nc, http)
            camera = Camera(seed, drift=drift)
            last = await station.run(camera, first, rate, post_rate, seconds, step)
        bucket = await insist(partial(nc.jetstream().key_value, BUCKET), "the cursor")
        await insist(partial(bucket.put, _CURSOR, str(last).encode()), "the cursor")
        return station.report
    finally:
        await nc.close()


async def _cursor(nc: Client) -> int:
    """Number of the next picture; pictures are not taken twice."""
    bucket = await ensure_bucket(nc.jetstream(), BUCKET)
    try:
        return int((await bucket.get(_CURSOR)).value or LIVE_FROM)
    except NotFoundError:
        return LIVE_FROM
