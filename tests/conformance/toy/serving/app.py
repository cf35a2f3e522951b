"""The HTTP service: decides by the champion."""

from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI

from services.platform.models.served_model import ServedModel
from services.platform.models.tabular import TabularModel
from services.platform.runtime.http import add_operations
from services.platform.settings import settings
from tests.conformance.toy.features import FEATURES


def read_model(data: bytes) -> TabularModel:
    """A checked and warm model."""
    return TabularModel(data, "toy", FEATURES)


def create_app() -> FastAPI:
    """The app."""
    champion = ServedModel(settings(), "toy", read_model)

    @asynccontextmanager
    async def lifespan(app):
        champion.load()
        yield

    app = FastAPI(title="Parcels", lifespan=lifespan)

    @app.post("/weigh")
    def weigh(weight: float) -> dict[str, float]:
        [score] = champion.model.score(np.array([[weight]]), {})
        return {"score": float(score)}

    add_operations(app, lambda: {"model": champion.model is not None})
    return app
