"""The page's HTTP service: state, live stream, and what a click does."""

import base64
import hashlib
import re
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from nats.errors import Error as NatsError
from starlette.types import ASGIApp

from services.platform.colour_scale import colour_bar, overlay, read_levels, to_png
from services.platform.design import WALKTHROUGH, Design, registered
from services.platform.models.promotion_log import PromotionRecord, read_history
from services.platform.settings import Settings, settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.walkthrough import Walkthrough
from services.walkthrough.answers import (
    Cost,
    FaultReport,
    FaultRequest,
    JobRequest,
    JobState,
    Labelled,
    LabelRequest,
    Name,
    Problem,
    StageState,
    State,
    Tick,
)
from services.walkthrough.board import Board
from services.walkthrough.drift import DriftState, drift_state
from services.walkthrough.faults import Busy, Faults, NotOurs
from services.walkthrough.guard import Guard, security_headers
from services.walkthrough.jobs import JobRuns, Jobs
from services.walkthrough.money import MoneyState, MoneyView
from services.walkthrough.token import page_token

STATIC = Path(__file__).parent / "static"
_MAX_DECISIONS = 50
_IMAGE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
_IMPORT_MAP = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)


def _problems(**descriptions: str) -> dict[int | str, dict[str, Any]]:
    return {
        int(status[1:]): {"model": Problem, "description": text}
        for status, text in descriptions.items()
    }


_CHANGES = _problems(_401="The token is required", _409="One is running already, or a container",
                     _503="The process or an engine does not answer")  # fmt: skip


def create_app(config: Settings | None = None) -> ASGIApp:
    """The page as an ASGI application."""
    config = config or settings()
    page = (STATIC / "index.html").read_text()
    found = _IMPORT_MAP.search(page)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    app = create_api(config)
    return Guard(app, config.host_names, page_token(config), security_headers(digest))


def create_api(config: Settings) -> FastAPI:
    """The routes, without the guard before them."""
    board = Board(config, registered(config))
    faults, jobs = Faults(config, board), Jobs()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await faults.close()
        await jobs.close()

    app = FastAPI(
        title="Whiteboard: walkthrough", summary="Both designs, live.", lifespan=lifespan,
        docs_url=None, redoc_url=None,
    )  # fmt: skip

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code)

    _add_state(app, board)
    _add_records(app, config, board)
    _add_money(app, config, board)
    _add_image(app, config)
    _add_one_event(app, config, board)
    _add_changes(app, board, faults, jobs)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    return app


def _add_state(app: FastAPI, board: Board) -> None:
    @app.get("/healthz", tags=["operations"], summary="Liveness: the process runs")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(WALKTHROUGH.route, tags=["state"], summary="Everything that the page shows")
    async def state() -> State:
        return await board.state()

    @app.get("/api/stages", tags=["state"], summary="Where the time of requests goes",
             responses=_problems(_404="No such design"))  # fmt: skip
    async def stages(design: Annotated[Name, Query()]) -> list[StageState]:
        return await board.stages(_design(board, design).name)

    @app.get("/api/designs", tags=["state"], summary="The same without waiting for figures")
    async def designs() -> State:
        return board.describe()

    @app.get(
        "/api/stream",
        tags=["state"],
        summary="Live state, once a second, as Server-Sent Events",
        response_class=EventSourceResponse,
    )
    async def stream() -> AsyncIterable[Tick]:
        async for tick in board.ticks():
            yield tick


def _add_records(app: FastAPI, config: Settings, board: Board) -> None:
    @app.get(
        "/api/decisions",
        tags=["events"],
        summary="The newest decisions",
        responses=_problems(_404="No such design", _503="An engine does not answer"),
    )
    async def decisions(
        design: Annotated[Name, Query()],
        count: Annotated[int, Query(ge=1, le=_MAX_DECISIONS)] = 20,
    ) -> Response:
        try:
            views = await _extras(board, design).newest(config, count)
        except (ValueError, OSError) as error:
            raise HTTPException(503, str(error)) from error
        data = orjson.dumps([asdict(v) for v in views], option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(data, media_type="application/json")

    @app.get("/api/history", tags=["events"], summary="Promotions, refusals and rollbacks",
             responses=_problems(_404="No such design", _503="NATS does not answer"))  # fmt: skip
    async def history(design: Annotated[Name, Query()]) -> list[PromotionRecord]:
        try:
            nc = await connect(config, "walkthrough")
        except OSError as error:
            raise HTTPException(503, str(error)) from error
        try:
            return await read_history(nc.jetstream(), _design(board, design).name)
        except (NatsError, TimeoutError) as error:
            raise HTTPException(503, "the history is unavailable: retry") from error
        finally:
            await nc.close()

    @app.get("/api/drift", tags=["events"], summary="Drift by column and window, and alerts",
             responses=_problems(_404="No such design", _503="S3 does not answer"))  # fmt: skip
    async def drift(design: Annotated[Name, Query()]) -> DriftState:
        try:
            return await drift_state(config, _design(board, design))
        except OSError as error:
            raise HTTPException(503, "S3 does not answer") from error


def _add_money(app: FastAPI, config: Settings, board: Board) -> None:
    view = MoneyView(config)

    @app.get("/api/money", tags=["events"], summary="Logged decisions under other costs",
             responses=_problems(_404="No such design, or nothing decided", _422="No such cost",
                                 _503="An engine does not answer"))  # fmt: skip
    async def money(
        design: Annotated[Name, Query()],
        cost: Annotated[list[Cost], Query()] = [],  # noqa: B006
    ) -> MoneyState:
        costs = {name: float(value) for name, _, value in (one.partition("=") for one in cost)}
        try:
            return await view.state(_design(board, design), _extras(board, design).money(), costs)
        except ValueError as error:
            raise HTTPException(404 if not costs else 422, str(error)) from error
        except OSError as error:
            raise HTTPException(503, str(error)) from error


def _add_image(app: FastAPI, config: Settings) -> None:
    @app.get("/api/scale", tags=["events"], summary="The colours of a map")
    def scale() -> Response:
        return Response(to_png(colour_bar()), media_type="image/png")

    @app.get("/api/image", tags=["events"], summary="An image of the inbox, or a map's channel",
             responses=_problems(_404="No such image", _503="S3 does not answer"))  # fmt: skip
    def image(
        key: Annotated[str, Query(max_length=1_024)],
        channel: Annotated[int | None, Query(ge=0, le=3)] = None,
    ) -> Response:
        kind = _IMAGE_TYPES.get(Path(key).suffix.lower())
        if kind is None or not key.isprintable() or {"", ".", ".."} & set(key.split("/")):
            raise HTTPException(404, "not a key of an image")
        try:
            data = Lake(config, config.inbox if channel is None else config.results).get(key)
            if channel is not None:
                return Response(to_png(overlay(read_levels(data, channel))), media_type="image/png")
        except (FileNotFoundError, ValueError) as error:
            raise HTTPException(404, "no such image, or no such channel") from error
        except OSError as error:
            raise HTTPException(503, "S3 does not answer") from error
        return Response(data, media_type=kind)


def _add_one_event(app: FastAPI, config: Settings, board: Board) -> None:
    @app.post("/api/follow", tags=["events"], summary="Send one event and follow it",
              response_class=EventSourceResponse)  # fmt: skip
    async def follow(design: Annotated[Name, Query()]) -> AsyncIterable[ServerSentEvent]:
        try:
            async for mark in _extras(board, design).follow(config):
                yield ServerSentEvent(data=asdict(mark), event="mark")
        except (ValueError, OSError, HTTPException) as error:
            message = error.detail if isinstance(error, HTTPException) else str(error)
            yield ServerSentEvent(data={"error": message}, event="problem")
        yield ServerSentEvent(data={}, event="end")

    @app.post("/api/label", tags=["events"], summary="A person's verdict on a decision",
              responses=_CHANGES | _problems(_404="No such decision among the newest"))  # fmt: skip
    async def label(design: Annotated[Name, Query()], body: LabelRequest) -> Labelled:
        try:
            said = await _extras(board, design).label(config, body.id, body.label)
        except LookupError as error:
            raise HTTPException(404, str(error.args[0])) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        except OSError as error:
            raise HTTPException(503, str(error)) from error
        return Labelled(said=said)


def _add_changes(app: FastAPI, board: Board, faults: Faults, jobs: Jobs) -> None:
    @app.get("/api/fault", tags=["faults"], summary="The newest fault")
    async def fault() -> FaultReport | None:
        return faults.report

    @app.post("/api/fault", status_code=202, tags=["faults"], summary="Break a process",
              responses=_CHANGES)  # fmt: skip
    async def strike(design: Annotated[Name, Query()], body: FaultRequest) -> FaultReport:
        _design(board, design)
        try:
            return faults.begin(body, design)
        except (Busy, NotOurs) as error:
            raise HTTPException(409, str(error)) from error
        except KeyError as error:
            raise HTTPException(422, str(error.args[0])) from error

    @app.get("/api/jobs", tags=["jobs"], summary="Commands that run or ran")
    async def all_jobs() -> list[JobState]:
        return jobs.all()

    @app.post("/api/jobs", status_code=202, tags=["jobs"], summary="Run a command",
              responses=_CHANGES)  # fmt: skip
    async def start(body: JobRequest) -> JobState:
        _design(board, body.design)
        try:
            return jobs.start(body)
        except JobRuns as error:
            raise HTTPException(409, str(error)) from error
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    @app.post("/api/jobs/stop", tags=["jobs"], summary="Stop a command", responses=_CHANGES)
    async def stop(design: Annotated[Name, Query()], verb: Annotated[Name, Query()]) -> JobState:
        try:
            return await jobs.stop(design, verb)
        except KeyError as error:
            raise HTTPException(404, "no such command was run") from error


def _design(board: Board, name: str) -> Design:
    if name not in board.designs:
        raise HTTPException(404, f"no design {name!r}: choose from {', '.join(board.designs)}")
    return board.designs[name]


def _extras(board: Board, name: str) -> Walkthrough:
    design = _design(board, name)
    if design.walkthrough is None:
        raise HTTPException(404, f"{name} brings nothing to follow")
    return design.walkthrough()
