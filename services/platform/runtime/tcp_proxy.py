"""A TCP proxy that makes connections bad: latency, jitter and resets. For faults on purpose."""

import asyncio
import random
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

_CHUNK = 65_536
# Chunks on their way in one direction; more wait in the sender's socket.
_IN_FLIGHT = 1_000
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class BadLink:
    """How bad a connection is.

    Attributes:
        latency_ms: Added to a round trip, half in each direction.
        jitter_ms: Added besides by chance: uniform from 0 to this.
        resets: Share of chunks at which the connection is reset.
    """

    latency_ms: float = 30.0
    jitter_ms: float = 20.0
    resets: float = 0.01


class TcpProxy:
    """Passes connections on to one port of this machine.

    Attributes:
        connections: How many there were.
        resets: How many it reset.
    """

    def __init__(self, link: BadLink, host: str, port: int, seed: int = 0) -> None:
        self.connections = self.resets = 0
        self._link = link
        self._target = host, port
        self._random = random.Random(seed)
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, host: str, port: int) -> asyncio.Server:
        """Listen. OSError: the port is taken."""
        return await asyncio.start_server(self._connect, host, port)

    async def close(self, server: asyncio.Server) -> None:
        """Stop listening and end every connection."""
        server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections += 1
        writers = [writer]
        try:
            to_reader, to_writer = await asyncio.open_connection(*self._target)
            writers.append(to_writer)
            both = (self._pass(reader, to_writer), self._pass(to_reader, writer))
            await asyncio.gather(*both)
        except (OSError, asyncio.CancelledError):
            for one in writers:
                _reset(one)
        finally:
            self._open.discard(task)
            for one in writers:
                one.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass chunks on, each after its delay, in order."""
        due_chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
        sending = asyncio.create_task(_send(due_chunks, writer))
        try:
            while data := await reader.read(_CHUNK):
                if self._random.random() < self._link.resets:
                    self.resets += 1
                    raise ConnectionResetError("on purpose")
                delay = self._link.latency_ms + self._random.uniform(0, self._link.jitter_ms)
                due = asyncio.get_running_loop().time() + delay / 2e3
                await due_chunks.put((due, data))
            await due_chunks.put((0.0, b""))
            await sending
        finally:
            sending.cancel()


async def _send(chunks: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    """Send chunks when they are due, until an empty one, which ends this direction."""
    while True:
        due, data = await chunks.get()
        if not data:
            with suppress(OSError):
                writer.write_eof()
            return
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        writer.write(data)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side sees a reset, not an end."""
    found = writer.get_extra_info("socket")
    if found is not None:
        with suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
