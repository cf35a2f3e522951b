"""Shadow mode: the design's logged decisions as inputs of a challenger."""

import numpy as np
from redis import Redis
from redis.exceptions import RedisError

from features.cluster.clients import open_redis
from features.online.table import OnlineTable
from features.reading import embedding_values
from services.fraud.features.decisions import is_current
from services.fraud.features.request import cart_set
from services.fraud.features.states import (
    EMBEDDING_FEATURES,
    EMBEDDINGS,
    FEATURE_SET,
    FEATURES,
)
from services.fraud.ingestion.events import (
    DECISIONS_STREAM,
    DecisionEvent,
    read_published,
)
from services.fraud.model import needs_embeddings, read_model
from services.fraud.problem import DESIGN
from services.platform.models.tabular import TabularModel
from services.platform.retraining import shadow
from services.platform.retraining.shadow import LoggedDecision
from services.platform.settings import Settings
from services.platform.streaming.consumer import Message
from services.platform.types import Floats

BATCH = 500
_EMBEDDED = FEATURE_SET.columns(EMBEDDING_FEATURES)


class DecisionReader:
    """Turns messages of the decision stream into logged decisions.

    The scorer reads embeddings only for a champion that needs them. For a challenger that needs
    them they are read here.
    """

    def __init__(self, redis: Redis) -> None:
        self._tables = {view: OnlineTable(redis, view) for view in EMBEDDINGS}

    def prepare(
        self, models: tuple[TabularModel, ...], batch: list[Message]
    ) -> list[LoggedDecision]:
        """The valid decisions of a batch, without those made without the online store.

        Args:
            models: Challenger and champion, as far as there are any.
            batch: Messages of the decision stream.

        Raises:
            redis.RedisError: the embeddings cannot be read.
        """
        valid = [(message, event) for message in batch if (event := _parse(message)) is not None]
        vectors = np.array([event.features for _, event in valid], dtype=np.float64)
        vectors = vectors.reshape(-1, len(FEATURES))
        if valid and any(needs_embeddings(model) for model in models):
            vectors[:, _EMBEDDED] = self._embeddings([event for _, event in valid])
        carts = any(model.card.sets for model in models)
        return [
            _logged_decision(message.seq, event, vectors[i : i + 1], carts)
            for i, (message, event) in enumerate(valid)
        ]

    def _embeddings(self, events: list[DecisionEvent]) -> Floats:
        """(N, len(EMBEDDING_FEATURES)), NaN for parties without an embedding."""
        columns = []
        for view, table in self._tables.items():
            keys = [getattr(event.transaction, view.keys[0]) for event in events]
            rows = table.load([(key or "",) for key in keys])
            columns.append(embedding_values(rows))
        return np.hstack(columns)


def _parse(message: Message) -> DecisionEvent | None:
    event = read_published(DecisionEvent, message.data, shadow.NAME)
    if event is None or event.degraded or not is_current(event.feature_set):
        return None
    return event if len(event.features) == len(FEATURES) else None


def _logged_decision(
    seq: int, event: DecisionEvent, vector: Floats, with_cart: bool
) -> LoggedDecision:
    transaction = event.transaction
    fields = {
        "seq": seq,
        "event_time": transaction.event_time,
        "decision_id": event.decision_id,
    }
    return LoggedDecision(fields, vector, {"items": cart_set(transaction)} if with_cart else {})


async def main(config: Settings) -> None:
    """Run until cancelled."""
    decisions = DecisionReader(open_redis(config, socket_timeout=5.0))
    await shadow.serve(
        config, DESIGN, read_model, decisions.prepare, DECISIONS_STREAM, BATCH, (RedisError,)
    )
