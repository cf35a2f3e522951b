"""The numbers of the live images: each is taken once, also where a run is killed."""

import asyncio
from collections.abc import Iterator

from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from services.cv_inspection.simulator.camera import LINES, LIVE_FROM, STATIONS
from services.platform.streaming.retry import retry_forever

_LAP = len(LINES) * STATIONS
_AHEAD = 20 * _LAP
_KEY = "cv.cursor"


class ImageNumbers:
    """Numbers in laps of one image for each station of each line, stored in a NATS bucket.

    The stored number is up to 120 ahead, so a run that is killed skips some and the next run
    repeats none. While NATS is away, images are taken all the same.

    Attributes:
        next: No run has taken this number, or a higher one.
    """

    def __init__(self, bucket: KeyValue, first: int) -> None:
        self._bucket = bucket
        self._stored = first
        self._storing: set[asyncio.Task[None]] = set()
        self.next = first

    @classmethod
    async def open(cls, bucket: KeyValue) -> "ImageNumbers":
        """Go on where the last run stopped."""
        try:
            first = int((await bucket.get(_KEY)).value or LIVE_FROM)
        except NotFoundError:
            first = LIVE_FROM
        numbers = cls(bucket, first)
        await numbers._store(first + _AHEAD)
        return numbers

    def laps(self) -> Iterator[int]:
        """Numbers without an end. Several of these iterators share no number."""
        while True:
            lap = range(self.next, self.next + _LAP)
            self.next = lap.stop
            if self.next + _AHEAD // 2 > self._stored:
                task = asyncio.create_task(self._store(self.next + _AHEAD))
                self._storing.add(task)
                task.add_done_callback(self._storing.discard)
            yield from lap

    async def close(self) -> None:
        """Store exactly the next number."""
        await self._store(self.next)

    async def _store(self, number: int) -> None:
        self._stored = number
        # What is to be stored by then: a retry must not undo a later change.
        await retry_forever(
            lambda: self._bucket.put(_KEY, str(self._stored).encode()), "the next image's number"
        )
