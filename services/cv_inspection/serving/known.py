"""Which inspections there are: a label of none is refused, because labels train models.

The ids are held in memory, 16 bytes each: those of the lake, read once at the start and again after
many new ones; those of the stream behind the lake's last row, read when a label asks for them; and
the inspector's own, which the stream may not have yet. Older ones are looked for in the lake, a
file at a time: customers send a part back weeks after its inspection.
"""

import asyncio
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

from services.cv_inspection.ingestion.events import DECISIONS_STREAM, parse_inspection
from services.cv_inspection.ingestion.tables import INSPECTIONS_TABLE
from services.platform.storage.lake import Lake, partition_date
from services.platform.streaming.outbox import Outbox
from services.platform.streaming.retry import retry_forever

# 32 MB: at 20 images a second the inspections of 28 hours.
MAX_IDS = 2_000_000
# More new inspections than these are read from the lake's new files, fewer from the stream.
MAX_BEHIND = 2_000
# Messages asked for at once: about 10 ms of the event loop, which requests share.
_CHUNK = 100
_WAIT_S, _POLL_S = 5.0, 0.05
_SORT_INTERVAL_S = 60.0
_NONE = pa.array([], pa.string())
# A date after all others.
_TODAY = partition_date("")
_ID = "^[0-9a-f]{32}$"


class IdSet:
    """Ids of 32 hexadecimal digits, 16 bytes each and a little more.

    >>> ids = IdSet(["0" * 31 + "1", "not an id"])
    >>> ids.add("f" * 32)
    >>> "f" * 32 in ids, "0" * 31 + "1" in ids, "0" * 32 in ids, len(ids)
    (True, True, False, 2)
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self._sorted = np.empty(0, dtype="S16")
        self._newest: set[bytes] = set()
        self.update(pa.array(ids, pa.string()))

    def __len__(self) -> int:
        return len(self._sorted) + len(self._newest)

    def __contains__(self, identity: str) -> bool:
        key = bytes.fromhex(identity)
        if key in self._newest:
            return True
        place = int(np.searchsorted(self._sorted, np.array(key, dtype="S16")))
        return place < len(self._sorted) and bool(self._sorted[place] == key.rstrip(b"\0"))

    def add(self, identity: str) -> None:
        """Add one id."""
        self._newest.add(bytes.fromhex(identity))

    def update(self, ids: pa.Array | pa.ChunkedArray) -> None:
        """Add many ids, and sort those added before; what is no id is passed over."""
        valid = ids.filter(pc.match_substring_regex(ids, _ID))
        newest = self._newest.copy()
        more = b"".join([bytes.fromhex("".join(valid.to_pylist())), *newest])
        merged = [self._sorted, np.frombuffer(more, dtype="S16")]
        self._sorted = np.unique(np.concatenate(merged))
        # One may have been added meanwhile: this runs in a thread.
        self._newest -= newest

    def forget(self) -> None:
        """Forget all but those added since the last `update`."""
        self._sorted = np.empty(0, dtype="S16")


class KnownInspections:
    """The ids of the newest inspections of an installation."""

    def __init__(self, lake: Lake, outbox: Outbox, max_ids: int = MAX_IDS) -> None:
        """Read nothing yet.

        Args:
            outbox: The inspector's own results that wait for the stream.
            max_ids: Inspections that are remembered, the newest.
        """
        self._lake = lake
        self._outbox = outbox
        self._max_ids = max_ids
        self._refreshing = asyncio.Lock()
        self._searching = asyncio.Lock()
        self._older = False
        self._loaded = asyncio.Event()
        self._ids = IdSet()
        self._files: set[str] = set()
        self._through, self._oldest, self._limit = 0, _TODAY, float(max_ids)

    def add(self, identity: str) -> None:
        """Remember one inspection."""
        self._ids.add(identity)

    async def run(self) -> None:
        """Read the lake's ids, then sort new ones every minute. Runs until cancelled."""
        await retry_forever(self._read_lake, "the ids of inspections")
        self._loaded.set()
        while True:
            await asyncio.sleep(_SORT_INTERVAL_S)
            async with self._refreshing:
                await asyncio.to_thread(self._ids.update, _NONE)

    async def holds(self, identity: str, js: JetStreamContext) -> bool:
        """Whether this inspection was made.

        Raises:
            nats.errors.Error, OSError: the stream or the lake did not answer; retry.
        """
        if identity in self._ids:
            return True
        async with asyncio.timeout(_WAIT_S):
            await self._loaded.wait()
        await self._published()
        async with self._refreshing:
            if identity not in self._ids:
                await self._refresh(js)
        return identity in self._ids or (self._older and await self._search(identity))

    async def _search(self, identity: str) -> bool:
        """Whether a file of the lake that is not remembered has it, the newest day first."""
        async with self._searching:
            files = await asyncio.to_thread(self._lake.files, INSPECTIONS_TABLE)
            unread = set(files) - self._files
            for file in sorted(unread, key=partition_date, reverse=True):
                rows = await asyncio.to_thread(self._lake.read_files, [file], ["inspection_id"])
                if rows is not None and pc.any(pc.equal(rows["inspection_id"], identity)).as_py():
                    return True
        return False

    async def _published(self) -> None:
        """Wait for results that an earlier run kept in its file. TimeoutError if they stay."""
        async with asyncio.timeout(_WAIT_S):
            while self._outbox.spilled:
                await asyncio.sleep(_POLL_S)

    async def _refresh(self, js: JetStreamContext) -> None:
        """Read what the stream has by now."""
        state = (await js.stream_info(DECISIONS_STREAM)).state
        if state.last_seq < self._through:  # a new stream
            self._through = 0
        if len(self._ids) > self._limit:
            self._ids.forget()
            self._files.clear()
            self._through, self._oldest = 0, _TODAY
        if state.last_seq - self._through > MAX_BEHIND:
            await self._read_lake()
        first = max(self._through + 1, state.first_seq)
        for begin in range(first, state.last_seq + 1, _CHUNK):
            seqs = range(begin, min(begin + _CHUNK, state.last_seq + 1))
            for message in await asyncio.gather(*(_message(js, seq) for seq in seqs)):
                self._remember(message)
            self._through = seqs[-1]

    def _remember(self, message: api.RawStreamMsg | None) -> None:
        try:
            self.add(parse_inspection((message and message.data) or b"").inspection_id)
        except ValueError:
            return  # the lake writer dead-letters it

    async def _read_lake(self) -> None:
        """Read the ids of new files, the newest day first, up to the most that are remembered."""
        by_day: dict[str, list[str]] = {}
        for file in await asyncio.to_thread(self._lake.files, INSPECTIONS_TABLE):
            by_day.setdefault(partition_date(file), []).append(file)
        listed = {file for files in by_day.values() for file in files}
        older = False
        for day in sorted(by_day, reverse=True):
            unread = [file for file in by_day[day] if file not in self._files]
            if len(self._ids) >= self._max_ids and day < self._oldest:
                older = True
                break
            self._oldest = min(self._oldest, day)
            rows = await asyncio.to_thread(self._lake.read_files, unread, ["inspection_id"])
            self._files.update(unread)
            if rows is not None and len(rows):
                await asyncio.to_thread(self._ids.update, rows["inspection_id"])
                self._through = max(self._through, rows["seq"][-1].as_py())
        self._files &= listed
        self._older = older
        self._limit = 1.25 * max(self._max_ids, len(self._ids))


async def _message(js: JetStreamContext, seq: int) -> api.RawStreamMsg | None:
    try:
        return await js.get_msg(DECISIONS_STREAM, seq)
    except NotFoundError:
        return None  # the stream has dropped it
