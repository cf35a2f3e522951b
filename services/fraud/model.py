"""The model file of this design: a score of each feature vector.

Candidates export it; serving, shadow mode and the gate load it.
"""

from functools import lru_cache

from services.fraud.features.states import EMBEDDING_FEATURES, FEATURES, SETS
from services.fraud.problem import DESIGN
from services.platform.models.tabular import TabularModel


def read_model(data: bytes) -> TabularModel:
    """A checked and warm model of this design. ModelRefused if the file is not one."""
    return TabularModel(data, DESIGN, FEATURES, SETS)


@lru_cache(maxsize=4)  # asked for every request
def needs_embeddings(model: TabularModel) -> bool:
    """Whether a model reads graph embeddings."""
    return not set(EMBEDDING_FEATURES).isdisjoint(model.card.features)
