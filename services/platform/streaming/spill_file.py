"""The file in which an outbox keeps events while the stream is unavailable."""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import orjson

# The name of the file of a process's events.
FILE = "outbox.jsonl"


@dataclass(slots=True)
class OutboxEvent:
    """An event to publish.

    Attributes:
        subject: Subject to publish on.
        id: Its id, by which the stream drops duplicates.
        data: Its payload.
        queued: When it was queued, by `perf_counter`; 0 for one read from the file.
    """

    subject: str
    id: str
    data: bytes
    queued: float = field(default=0.0, compare=False)


class SpillFile:
    """A bounded file of events, appended at its end, read from its start, emptied once all is read.

    Events that were read are skipped only after `confirm`.

    Attributes:
        count: Unconfirmed events in the file.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._max_bytes = max_bytes
        self._path.touch()
        self._size = self.count = 0
        with self._path.open("r+b") as file:
            for line in file:
                # Without its end, a crash truncated it: the next event would be glued to it.
                if line.endswith(b"\n"):
                    self._size += len(line)
                    self.count += 1
            file.truncate(self._size)
        self._confirmed = 0
        self._pending = 0, 0

    def append(self, events: list[OutboxEvent]) -> int:
        """Append events while they fit. Returns the number that did not fit.

        Raises:
            OSError: the file can't be written; none of the events is in it.
        """
        if not events:
            return 0
        lines, size = [], self._size
        for event in events:
            line = orjson.dumps([event.subject, event.id, event.data.decode()]) + b"\n"
            if size + len(line) > self._max_bytes:
                break
            size += len(line)
            lines.append(line)
        with self._path.open("ab") as file:
            file.truncate(self._size)  # what an append that failed has left
            file.writelines(lines)
        self._size = size
        self.count += len(lines)
        return len(events) - len(lines)

    def peek(self, size: int) -> list[OutboxEvent]:
        """The next events, at most `size`; none once all are confirmed."""
        with self._path.open("rb") as file:
            file.seek(self._confirmed)
            lines = list(islice(file, min(size, self.count)))
        self._pending = len(lines), sum(map(len, lines))
        return [event for line in lines if (event := _event(line))]

    def confirm(self) -> None:
        """Skip the events of the last `peek`; empty the file once all are confirmed."""
        lines, size = self._pending
        self._pending = 0, 0
        self._confirmed += size
        self.count -= lines
        if self._confirmed == self._size:
            self._path.write_bytes(b"")
            self._size = self._confirmed = 0


def _event(line: bytes) -> OutboxEvent | None:
    """The event of a line; None if the line is damaged."""
    try:
        subject, event_id, data = orjson.loads(line)
    except ValueError:
        return None
    return OutboxEvent(subject, event_id, data.encode())
