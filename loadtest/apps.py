"""Services to compare `/score` with: a no-op, and a reference implementation.

Both validate the same body as `/score`. The reference implementation follows each library's
documentation: Feast's SDK reads the features, XGBoost's booster scores.
"""

import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from services.fraud.ingestion.events import Transaction
from services.platform.settings import settings


def noop() -> FastAPI:
    """A service that validates the body and answers."""
    app = FastAPI()

    @app.post("/score")
    async def score(transaction: Transaction) -> dict[str, Any]:
        return {"transaction_id": transaction.transaction_id, "score": 0.0}

    return app


def reference() -> FastAPI:
    """A service that calls Feast's `get_online_features`, then `xgboost.Booster.predict`."""
    import numpy as np
    import xgboost

    from features.store import open_store
    from services.fraud.features.request import REQUEST_FEATURES, request_features
    from services.fraud.features.states import FEATURE_SET, TABULAR
    from services.fraud.ingestion.events import ENTITIES
    from services.platform.models.registry import ModelRegistry

    config = settings()
    store = open_store(config, FEATURE_SET)
    service = store.get_feature_service(FEATURE_SET.design)
    registry = ModelRegistry(config)
    version = registry.newest_version("fraud", "xgboost")
    if version is None:
        raise RuntimeError("no xgboost is registered: `whiteboard train fraud`")
    with tempfile.TemporaryDirectory() as folder:
        native = registry.download_native("fraud", version, Path(folder))
        booster = xgboost.Booster(model_file=native / "xgboost.json")
    booster.set_param({"nthread": 1})
    app = FastAPI()

    @app.post("/score")
    def score(transaction: Transaction) -> dict[str, Any]:
        row: dict[str, Any] = {e: getattr(transaction, e) for e in ENTITIES}
        row |= dict(zip(REQUEST_FEATURES, request_features(transaction), strict=True))
        found = store.get_online_features(service, [row]).to_dict()
        vector = np.array([[found[name][0] for name in TABULAR]], dtype=np.float32)
        names = booster.feature_names
        matrix = xgboost.DMatrix(vector, feature_names=names)
        return {
            "transaction_id": transaction.transaction_id,
            "score": float(booster.predict(matrix)[0]),
        }

    return app
