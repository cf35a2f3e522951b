"""The shell of a decision service: what every design's HTTP service does around its decision.

It holds the champion and follows promotions, queues decisions for the stream, and has the routes
for health, metrics, reports and admin. A design adds what it needs to decide, and its own route.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

from fastapi import FastAPI, Response
from nats.aio.client import Client
from nats.errors import Error as NatsError

from services.platform.models.alias import alias_conflict
from services.platform.models.onnx import ScoringModel
from services.platform.models.served_model import ServedModel
from services.platform.retraining.admin import add_admin
from services.platform.runtime.http import (
    DirectApp,
    JsonResponse,
    add_operations,
    error_response,
)
from services.platform.runtime.pages import add_pages
from services.platform.runtime.tasks import cancel_tasks
from services.platform.runtime.worker import freeze_gc
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.reports import add_reports
from services.platform.streaming.connection import open_connection
from services.platform.streaming.orphans import held, take_over_forever
from services.platform.streaming.outbox import Outbox
from services.platform.telemetry import (
    BUILD,
    OUTBOX_DEPTH,
    OUTBOX_DROPPED,
    Stages,
    count_decision,
    count_request,
)

_GAUGES_INTERVAL_S = 1.0
_ALIAS_INTERVAL_S = 10.0


class Decider(Protocol):
    """What a design needs to decide."""

    def readiness(self) -> Mapping[str, bool | str | int]:
        """What else `/readyz` shows; any False: not ready."""
        ...


M = TypeVar("M", bound=ScoringModel)
D = TypeVar("D", bound=Decider)
OpenDecider = Callable[[Settings, ServedModel[M], Outbox], AbstractAsyncContextManager[D]]


class DecisionService(Generic[M, D]):
    """A decision service. `nats`, `outbox` and `decider` are set when its app starts.

    Attributes:
        champion: The served model.
        nats: The connection to NATS, which may be down.
        outbox: Queues decisions for the stream.
        decider: The design's own part.
    """

    nats: Client
    outbox: Outbox
    decider: D

    def __init__(
        self,
        config: Settings,
        design: str,
        name: str,
        read_model: Callable[[bytes], M],
        open_decider: OpenDecider[M, D],
    ) -> None:
        """Open nothing yet.

        Args:
            name: Name of the service on NATS, and of its folder below `config.home`.
            read_model: Makes a checked and warm model of a file. ModelRefused if it is unusable.
            open_decider: Opens and closes the design's own part, which queues decisions itself.
        """
        self.champion = ServedModel(config, design, read_model)
        self._config = config
        self._design = design
        self._name = name
        self._open_decider = open_decider
        self._started = False
        self._registry_alias = ""

    def create_app(self, title: str, summary: str, max_bytes: int) -> DirectApp:
        """The ASGI application with every route but the design's own.

        It opens its connections at startup, and starts without NATS and without a model too.

        Args:
            max_bytes: Maximum size of a request body.
        """
        app = DirectApp(
            max_bytes,
            self._config.host_names,
            title=title,
            summary=summary,
            lifespan=self._lifespan,
            docs_url=None,
            redoc_url=None,
        )
        token = self._config.admin_token.get_secret_value()
        add_pages(app)
        add_operations(app, self.readiness)
        add_reports(app, self._design, Lake(self._config))
        add_admin(app, self._design, token, lambda: self.nats)
        return app

    def readiness(self) -> dict[str, bool | str | int]:
        """What `/readyz` shows; any False: not ready."""
        if not self._started:
            return {"started": False}
        model = self.champion.model
        return {
            "process": self._config.instance or self._name,
            "build": self._config.build,
            "model": model.card.label if model else False,
            "model_refused": self.champion.refused,
            "registry_alias": self._registry_alias,
            "nats": "up" if self.nats.is_connected else "down, decisions wait",
            "outbox_events": self.outbox.depth,
            **self.decider.readiness(),
        }

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        config = self._config
        self.nats, connecting = open_connection(config, self._name)
        await asyncio.to_thread(self.champion.load)
        folder, max_bytes = config.folder(self._name), config.outbox_megabytes << 20
        BUILD.labels(config.instance or self._name, config.build).set(1)
        resources = ExitStack()
        if config.instance:
            await asyncio.to_thread(resources.enter_context, held(folder))
        self.outbox = Outbox(self.nats, folder, config.outbox_events, max_bytes)
        self.outbox.start()
        tasks = [
            connecting,
            asyncio.create_task(self.champion.watch(self.nats)),
            asyncio.create_task(self._set_gauges()),
            asyncio.create_task(self._check_alias()),
        ]
        if config.instance:
            left = take_over_forever(self.outbox, config.home, self._name, folder)
            tasks.append(asyncio.create_task(left))
        try:
            async with self._open_decider(config, self.champion, self.outbox) as self.decider:
                freeze_gc()
                self._started = True
                yield
        finally:
            self._started = False
            await cancel_tasks(*tasks)
            await self.outbox.close()
            resources.close()
            with suppress(NatsError, TimeoutError):
                await self.nats.close()

    async def _set_gauges(self) -> None:
        while True:
            OUTBOX_DEPTH.set(self.outbox.depth)
            OUTBOX_DROPPED.set(self.outbox.dropped)
            await asyncio.sleep(_GAUGES_INTERVAL_S)

    async def _check_alias(self) -> None:
        """Compare the registry's alias with the served version. Runs until cancelled."""
        while True:
            model = self.champion.model
            if model is not None and not self._config.model_file.exists():
                self._registry_alias = await asyncio.to_thread(
                    alias_conflict, self._config, self._design, model.card.version
                )
            await asyncio.sleep(_ALIAS_INTERVAL_S)


async def counted(route: str, response: Awaitable[Response]) -> Response:
    """Await a response, and count and time the request under its route."""
    begin = perf_counter()
    answer = await response
    count_request(route, answer.status_code, perf_counter() - begin)
    return answer


def decision_response(
    body: Mapping[str, Any], decision: str, stages: Stages, degraded: bool = False
) -> Response:
    """The response with a decision, which is counted; `Server-Timing` has its stages."""
    count_decision(decision, degraded)
    stages.observe()
    return JsonResponse(body, headers={"Server-Timing": stages.header()})


def no_model(command: str) -> Response:
    """The response while no model is loaded: 503 with the command that makes one."""
    return error_response(503, f"no model is loaded yet: `{command}` makes one")
