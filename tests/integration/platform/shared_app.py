"""An app of which several processes serve one port: it says which one answered."""

import asyncio
import os

from fastapi import Response
from pydantic import BaseModel

from services.platform.runtime.http import DirectApp, RawRequest, add_operations
from services.platform.telemetry import count_request


class Work(BaseModel):
    """How long it takes, seconds."""

    seconds: float = 0.0


def create_app() -> DirectApp:
    """The app."""
    app = DirectApp(max_bytes=1024)
    add_operations(app, lambda: {"started": True})

    async def work(request: RawRequest) -> Response:
        seconds = Work.model_validate_json(request.body or b"{}").seconds
        await asyncio.sleep(seconds)
        count_request(request.path, 200, seconds)
        return Response(str(os.getpid()))

    app.add_direct("/work", work, Work)
    return app
