"""Feature vectors from states: the compiled reading that training and serving share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from features.reading import FeatureReader, embedding_values
from services.fraud.features.states import FEATURE_SET, FEATURES, GRAPH, GROUPS, STATES
from services.platform.types import Floats

if TYPE_CHECKING:
    import pandas as pd

_READER = FeatureReader(FEATURE_SET)


def feature_vectors(rows: Mapping[str, Floats], request: Floats) -> Floats:
    """Feature vectors of N transactions, (N, len(FEATURES)); see `FeatureReader.vectors`."""
    return _READER.vectors(rows, request)


def transform_group(group: str, frame: "pd.DataFrame") -> "pd.DataFrame":
    """The transform that Feast calls for a feature group.

    Args:
        frame: N rows with the states or embeddings as lists, and the request features.
    """
    # Used offline only; importing pandas would slow the scorer's start.
    import pandas as pd

    from features.state_log import stack

    if group == GRAPH.name:
        values = [embedding_values(stack(frame[v.name], v.width)) for v in GRAPH.embeddings]
        return pd.DataFrame(np.hstack(values), columns=[f.name for f in GRAPH.features])
    rows = {state.name: stack(frame[state.name], state.width) for state in STATES}
    request = frame[list(FEATURE_SET.request_features)].to_numpy(dtype=np.float64)
    found = feature_vectors(rows, np.ascontiguousarray(request))
    return pd.DataFrame(found, columns=list(FEATURES))[list(GROUPS[group])]
