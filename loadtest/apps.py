"""What `/score` is put beside: the least a service can do, and the design by the book.

Both validate the same body as `/score`. By the book means as the documentation of each part shows
it: Feast's SDK reads the features, the training library's own booster scores.
"""

import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from services.fraud.ingestion.events import Transaction
from services.platform.settings import settings


def noop() -> FastAPI:
    """Validates and answers."""
    app = FastAPI()

    @app.post("/score")
    async def score(transaction: Transaction) -> dict[str, Any]:
        return {"transaction_id": transaction.transaction_id, "score": 0.0}

    return app


def by_the_book() -> FastAPI:
    """Feast's `get_online_features`, then `xgboost.Booster.predict`."""
    import numpy as np
    import xgboost

    from features.store import open_store
    from services.fraud.features.states import OWN, SPEC, TABULAR, own_columns
    from services.fraud.ingestion.events import ENTITIES
    from services.platform.models.registry import Registry

    config = settings()
    store = open_store(config, SPEC)
    service = store.get_feature_service(SPEC.design)
    registry = Registry(config)
    version = registry.newest("fraud", "xgboost")
    if version is None:
        raise RuntimeError("no xgboost is registered: `whiteboard train fraud`")
    with tempfile.TemporaryDirectory() as folder:
        native = registry.native("fraud", version, Path(folder))
        booster = xgboost.Booster(model_file=native / "xgboost.json")
    booster.set_param({"nthread": 1})
    app = FastAPI()

    @app.post("/score")
    def score(transaction: Transaction) -> dict[str, Any]:
        row: dict[str, Any] = {e: getattr(transaction, e) for e in ENTITIES}
        row |= dict(zip(OWN, own_columns(transaction), strict=True))
        found = store.get_online_features(service, [row]).to_dict()
        vector = np.array([[found[name][0] for name in TABULAR]], dtype=np.float32)
        names = booster.feature_names
        matrix = xgboost.DMatrix(vector, feature_names=names)
        return {
            "transaction_id": transaction.transaction_id,
            "score": float(booster.predict(matrix)[0]),
        }

    return app
