"""The HTTP service: decides by the champion."""

from contextlib import asynccontextmanager

import numpy as np
from fastapi import FastAPI

from services.platform.models.served_model import ServedModel
from services.platform.models.tabular import TabularModel
from services.platform.serving.decision_service import DecisionService
from services.platform.settings import settings
from tests.conformance.toy.features import FEATURES


class Scales:
    """Decides by the weight alone."""

    def __init__(self, champion: ServedModel[TabularModel]) -> None:
        self._champion = champion

    def weigh(self, weight: float) -> dict[str, float]:
        """The score of a parcel."""
        [score] = self._champion.model.score(np.array([[weight]]), {})
        return {"score": float(score)}

    def readiness(self) -> dict[str, bool | str | int]:
        """Nothing else."""
        return {}


def read_model(data: bytes) -> TabularModel:
    """A checked and warm model."""
    return TabularModel(data, "toy", FEATURES)


@asynccontextmanager
async def open_scales(config, champion, outbox):
    """The design's own part."""
    yield Scales(champion)


def create_app() -> FastAPI:
    """The app."""
    service = DecisionService(settings(), "toy", "toy_service", read_model, open_scales)
    app = service.create_app("Parcels", "Weighs parcels.", max_bytes=1024)

    @app.post("/weigh", summary="Weigh a parcel")
    async def weigh(weight: float) -> dict[str, float]:
        return service.decider.weigh(weight)

    return app
