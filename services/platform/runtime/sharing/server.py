"""uvicorn's server as one of several processes on a port, with a graceful end by SIGUSR1.

A draining process accepts no connection, and answers what comes on those it has with
`Connection: close`. When none is left, it ends as it does after SIGTERM, with exit status 0. A
connection that stays idle is closed after `KEEP_ALIVE_S`, as ever. SIGTERM closes idle ones at
once: a request that is on its way then is lost.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from services.platform.runtime.sharing.acceptor import Acceptor, ConnectionCounts
from services.platform.runtime.sharing.metrics import SharedMetrics
from services.platform.runtime.sharing.siblings import Member, number_of, shared_folder
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings

DRAIN = signal.SIGUSR1
_CLOSE = (b"connection", b"close")


class SharedServer(uvicorn.Server):
    """One of the processes that serve an app on one port."""

    def __init__(
        self, config: uvicorn.Config, member: Member, metrics: SharedMetrics, number: int
    ) -> None:
        """Open nothing yet.

        Args:
            number: Which one of the processes, from 0.
        """
        super().__init__(config)
        self._member, self._metrics = member, metrics
        self._counts = ConnectionCounts(member.folder / "connections", number)
        if member.first:
            self._counts.clear()
        self._acceptor: Acceptor | None = None
        self._writing: asyncio.Task[None] | None = None
        self._draining = False

    def state(self) -> dict[str, Any]:
        """What `siblings.ask_ready` shows of the server."""
        return {
            "accepts": self.started and not (self._draining or self.should_exit),
            "connections": len(self.server_state.connections),
            "requests": self.server_state.total_requests,
        }

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then accept."""
        await super().startup(sockets=[])
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(DRAIN, self.drain)
        self._writing = loop.create_task(self._metrics.write_forever())
        connections = self.server_state.connections
        self._acceptor = Acceptor(
            self._member.listener, self._protocol, lambda: len(connections), self._counts
        )
        self.servers = [self._acceptor]  # type: ignore[list-item]

    def drain(self) -> None:
        """Accept no more, and end when the last connection has."""
        self._draining = True
        if self._acceptor is not None:
            self._acceptor.close()
        self._member.leave()
        self._close_after_answers()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the server."""
        ends = await super().on_tick(counter)
        assert self._acceptor is not None
        if self._draining:
            self._close_after_answers()
            return ends or not self._acceptor.note()
        self._acceptor.note()
        return ends

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is open, end the app, and leave the final metrics."""
        self._member.leave()
        await super().shutdown(sockets=[])
        if self._writing is not None:
            await cancel_tasks(self._writing)
        self._metrics.write()

    def _close_after_answers(self) -> None:
        headers = self.server_state.default_headers  # uvicorn sets them anew each second
        if _CLOSE not in headers:
            self.server_state.default_headers = [*headers, _CLOSE]

    def _protocol(self) -> asyncio.Protocol:
        made = self.config.http_protocol_class
        return made(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def serve_shared(
    settings: Settings, service: str, factory: str, port: int, options: Mapping[str, Any]
) -> None:
    """Serve an app as one of several processes, until it is drained, SIGTERM or SIGINT.

    Args:
        service: Name of the service; `settings.instance` names the process.
        factory: "module:function" that makes the app, a `DirectApp` with operations.
        options: Arguments of uvicorn.

    Raises:
        OSError: the port is taken by a process that is none of them, or does not answer.
    """
    folder, name = shared_folder(settings.home, service), settings.instance
    member = Member(folder, name, settings.host, port)
    metrics = SharedMetrics(member)
    module, _, function = factory.partition(":")
    app = getattr(import_module(module), function)()
    app.state.metrics_page = metrics.page
    number = number_of(name, service) or 0
    server = SharedServer(uvicorn.Config(app, **options), member, metrics, number)
    member.ready = lambda: {**app.state.ready(), **server.state()}
    server.run()
    if not server.started:
        sys.exit(STARTUP_FAILURE)
