"""The model file of this design: a score of each feature vector, and the fallback it carries.

Candidates export it; serving, shadow mode and the gate load it.
"""

from functools import lru_cache

from services.fraud.features.states import EMBEDDING_FEATURES, FEATURES, SETS
from services.fraud.problem import DESIGN
from services.platform.models.attachments import attachment
from services.platform.models.refused import ModelRefused
from services.platform.models.tabular import TabularModel

# The attachment that decides while the online store is away: an ONNX file with a card of its own.
FALLBACK = "fallback"


class FraudModel(TabularModel):
    """A model of this design.

    Attributes:
        fallback: Decides without the online store, under the file's version; None in a file from
            before there was one.
    """

    def __init__(self, data: bytes) -> None:
        """Load a file. ModelRefused if it, or the fallback it carries, is unusable."""
        super().__init__(data, DESIGN, FEATURES, SETS)
        self.fallback = self._read_fallback()

    def _read_fallback(self) -> TabularModel | None:
        try:
            data = attachment(self.metadata, FALLBACK)
            found = None if data is None else TabularModel(data, DESIGN, FEATURES, SETS)
        except ValueError as error:
            raise ModelRefused(f"its fallback: {error}") from error
        if found is not None:
            found.card = found.card.model_copy(update={"version": self.card.version})
        return found


def read_model(data: bytes) -> FraudModel:
    """A checked and warm model of this design. ModelRefused if the file is not one."""
    return FraudModel(data)


@lru_cache(maxsize=4)  # asked for every request
def needs_embeddings(model: TabularModel) -> bool:
    """Whether a model reads graph embeddings."""
    return not set(EMBEDDING_FEATURES).isdisjoint(model.card.features)
