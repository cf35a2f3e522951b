"""Accepts connections on a socket that several processes share: the least loaded one goes first.

An event loop's own server accepts all that waits in one go. With two processes, of 64 connections
that a client opened at once one process got all, or 63 (uvloop, 2026-11-28), and keeps them as long
as the client does. Here a process takes one at a time, and one that has more connections than
another leaves each to it for a millisecond.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

_BACKLOG = 2048
_WAIT_S = 0.001
# Where the system gives no more, as asyncio's own servers do.
_PAUSE_S = 1.0
# Of the file: as many processes as can be numbered.
MAX_PROCESSES = 1024
_NONE = np.iinfo(np.int32).max


class ConnectionCounts:
    """How many connections each process has, in a file that all of them map.

    The entry of a process that was killed stays until it starts again: others wait a millisecond
    for it in vain, and accept then.
    """

    def __init__(self, path: Path, number: int) -> None:
        """Map the file, which is made if need be.

        Args:
            number: This process's number, from 0.
        """
        self._counts = np.memmap(_sized(path), np.int32, "r+", shape=MAX_PROCESSES)
        self._number = number

    def clear(self) -> None:
        """Forget all processes."""
        self._counts[:] = _NONE

    def set(self, count: int) -> None:
        """Tell the others how many this process has."""
        self._counts[self._number] = count

    def leave(self) -> None:
        """Tell the others that this process takes none."""
        self.set(_NONE)

    def least(self) -> int:
        """The smallest number of all processes that take any."""
        return int(self._counts.min())


def _sized(path: Path) -> Path:
    """A file of as many bytes as there are counts, made if need be."""
    with path.open("ab") as file:
        file.truncate(MAX_PROCESSES * 4)
    return path


class Acceptor:
    """Accepts connections until it is closed. uvicorn handles it as it does an asyncio server."""

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        connections: Callable[[], int],
        counts: ConnectionCounts,
    ) -> None:
        """Begin to listen and accept.

        Args:
            listener: Bound; it may listen already.
            make_protocol: Makes the protocol of a connection.
            connections: How many connections there are.
            counts: Those of all processes.
        """
        self._loop = asyncio.get_running_loop()
        self._listener, self._make_protocol = listener, make_protocol
        self._connections, self._counts = connections, counts
        self._opening: set[asyncio.Task[object]] = set()
        self._closed = False
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self.note()
        self._loop.add_reader(listener, self._look)

    @property
    def opening(self) -> int:
        """Connections that were accepted and have no protocol yet."""
        return len(self._opening)

    def note(self) -> int:
        """Tell the others how many connections there are, and return it."""
        count = self._connections() + self.opening
        if not self._closed:
            self._counts.set(count)
        return count

    def close(self) -> None:
        """Accept no more. What waits is another process's."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._listener)
            self._counts.leave()

    async def wait_closed(self) -> None:
        """Return at once: connections are waited for by who has them."""

    def _look(self) -> None:
        """Take what waits, as long as no other process has fewer."""
        while self.note() <= self._counts.least():
            if not self._accept():
                return
        self._pause(_WAIT_S)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        """Take one of what the others left."""
        if not self._closed:
            self._loop.add_reader(self._listener, self._look)
            self._accept()

    def _accept(self) -> bool:
        """Accept one. False if none waits any more, or after a pause."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False  # another process was first, or the client has gone
        except OSError as error:
            log.error("no connection is accepted for a second: %s", error)
            self._pause(_PAUSE_S)
            return False
        connection.setblocking(False)
        opening = self._loop.create_task(
            self._loop.connect_accepted_socket(self._make_protocol, connection)
        )
        self._opening.add(opening)
        opening.add_done_callback(self._opened)
        self.note()
        return True

    def _opened(self, opening: "asyncio.Task[object]") -> None:
        self._opening.discard(opening)
        if not opening.cancelled() and (error := opening.exception()):
            log.debug("a connection was lost as it began: %s", error)
