"""Features as of each transaction, from Feast's `get_historical_features`."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores.offline_store import RetrievalJob

from features.offline import AsofRetrievalJob
from features.reading import embedding_values
from features.state_log import stack
from features.store import graph_service, open_store
from services.fraud.features.rebuild import unfinished
from services.fraud.features.request import entity_frame
from services.fraud.features.states import (
    EMBEDDINGS,
    FEATURE_SET,
    FEATURES,
    TABULAR,
)
from services.platform.memory import release_memory
from services.platform.settings import Settings
from services.platform.types import Floats

# Each part reads the log of states again, 12 s of a processor for 60 days; the states of more rows
# at once take 1.7 KB a row.
_ROWS_AT_ONCE = 100_000


def point_in_time(settings: Settings, rows: pa.Table, graph: bool = False) -> Floats:
    """Feature vectors as of each transaction.

    Args:
        settings: Where the offline store is.
        rows: N transactions.
        graph: Whether to read the graph embeddings too.

    Returns:
        (N, len(FEATURES)) with embeddings, else (N, len(TABULAR)).

    Raises:
        ValueError: the states of this feature set are not rebuilt yet.
    """
    if states := unfinished(settings):
        raise ValueError(f"{', '.join(states)} must be rebuilt first: `whiteboard rebuild fraud`")
    store = open_store(settings, FEATURE_SET)
    service = store.get_feature_service(graph_service(FEATURE_SET) if graph else FEATURE_SET.design)
    names = list(FEATURES if graph else TABULAR)
    out = np.empty((len(rows), len(names)))
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows.slice(begin, _ROWS_AT_ONCE)
        _read_parts(
            store.get_historical_features(entity_frame(part), service),
            out[begin : begin + len(part)],
            lambda frame: frame[names].to_numpy(dtype=np.float64),
        )
        release_memory()
    return out


def point_in_time_embeddings(settings: Settings, rows: pa.Table, out: Floats) -> None:
    """Read the parties' embeddings as of each transaction from Feast.

    Args:
        rows: N transactions.
        out: (N, len(EMBEDDING_FEATURES)), filled.
    """
    store = open_store(settings, FEATURE_SET)
    wanted = [f"{view.name}:{view.name}" for view in EMBEDDINGS]

    def embeddings_of(frame: pd.DataFrame) -> Floats:
        values = (embedding_values(stack(frame[v.name], v.width)) for v in EMBEDDINGS)
        return np.hstack(list(values))

    _read_parts(store.get_historical_features(entity_frame(rows), wanted), out, embeddings_of)


def _read_parts(job: RetrievalJob, out: Floats, read: Callable[[pd.DataFrame], Floats]) -> None:
    """Fill `out` with what is read of a job's result, which is never held as a whole."""
    assert isinstance(job, AsofRetrievalJob)
    done = 0
    for frame in job.parts():
        out[done : done + len(frame)] = read(frame)
        done += len(frame)
