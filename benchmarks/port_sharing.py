"""Two ways to share a port among processes: a socket each (SO_REUSEPORT), or one for all.

`python -m benchmarks.port_sharing`. For each way: how 64 connections that are opened at once are
shared by two processes, and how many requests fail while one of two stops accepting and ends, again
and again, under load by new connections. uvloop's own servers take all that waits in one go; the
`Acceptor` leaves connections to the process that has fewer.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from services.platform.runtime.sharing.acceptor import Acceptor, ConnectionCounts

CONNECTIONS, BURSTS = 64, 8
CLIENTS, ENDS, UP_S = 64, 20, 0.3
WAYS = ("reuseport", "one socket, uvloop's server", "one socket, Acceptor")


class Echo(asyncio.Protocol):
    """Answers with the process's number."""

    open = 0

    def connection_made(self, transport):
        self.transport = transport
        Echo.open += 1

    def data_received(self, data):
        self.transport.write(b"%d" % os.getpid())

    def connection_lost(self, exc):
        Echo.open -= 1


def bound(port, reuse):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse))
    made.bind(("127.0.0.1", port))
    return made


async def serve(way, listener, counts):
    """Serve until SIGTERM; then accept no more, and end when no connection is left."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if way == WAYS[2]:
        server = Acceptor(listener, Echo, lambda: Echo.open, counts)
    else:
        server = await loop.create_server(Echo, sock=listener, backlog=2048)
    print("accepts", flush=True)
    await stop.wait()
    server.close()
    listener.close()
    while Echo.open:
        await asyncio.sleep(0.01)


def started(way, listener, folder, number):
    """A process of its own: a fork would keep the clients' connections open."""
    file = str(listener.fileno())
    command = (sys.executable, "-m", "benchmarks.port_sharing", way, file, folder, str(number))
    process = subprocess.Popen(command, pass_fds=[listener.fileno()], stdout=subprocess.PIPE)
    process.stdout.readline()  # it accepts
    return process


def run(way, file, folder, number):
    """What `started` starts."""
    counts = ConnectionCounts(Path(folder) / "counts", int(number))
    uvloop.run(serve(way, socket.socket(fileno=int(file)), counts))


async def request(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    answer = await reader.read(10)
    if not answer:
        raise ConnectionResetError
    return answer, writer


async def burst(port):
    found = await asyncio.gather(*(request(port) for _ in range(CONNECTIONS)))
    for _, writer in found:
        writer.close()
    by_process = Counter(answer for answer, _ in found)
    return CONNECTIONS - max(by_process.values())


async def load(port, until, tally):
    while time.monotonic() < until[0]:
        try:
            _, writer = await request(port)
            writer.close()
            tally["answered"] += 1
        except OSError:
            tally["failed"] += 1
        await asyncio.sleep(0)


async def ends(port, start, tally):
    """End one of two processes, and start another, while clients open connections."""
    until = [time.monotonic() + 3600]
    clients = [asyncio.create_task(load(port, until, tally)) for _ in range(CLIENTS)]
    for _ in range(ENDS):
        process = await asyncio.to_thread(start)
        await asyncio.sleep(UP_S)
        process.terminate()
        await asyncio.to_thread(process.wait)
    until[0] = 0
    await asyncio.gather(*clients)


def measure(way, folder):
    reuse = way == WAYS[0]
    first = bound(0, reuse)
    port = first.getsockname()[1]
    ConnectionCounts(Path(folder) / "counts", 0).clear()

    def second():
        with bound(port, True) if reuse else socket.socket(fileno=os.dup(first.fileno())) as own:
            return started(way, own, folder, 1)

    other, one = second(), started(way, first, folder, 0)
    fewest = [asyncio.run(burst(port)) for _ in range(BURSTS)]
    other.terminate()
    other.wait()
    tally = Counter()
    asyncio.run(ends(port, second, tally))
    one.kill()
    one.wait()
    print(f"{way}: the process with fewer had {fewest} of {CONNECTIONS}; {dict(tally)}")


def main():
    with TemporaryDirectory() as folder:
        for way in WAYS:
            measure(way, folder)


if __name__ == "__main__":
    run(*sys.argv[1:]) if sys.argv[1:] else main()
