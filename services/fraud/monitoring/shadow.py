"""Shadow mode for this design: what the decision stream logged, as a model is asked about it."""

import numpy as np
from pydantic import ValidationError
from redis import Redis

from features.online import OnlineTable
from features.spec import Floats
from services.fraud.features.states import FEATURES, GRAPH, TABULAR, cart_items, place_values
from services.fraud.ingestion.events import DECISIONS_STREAM, DecisionEvent
from services.fraud.serving.app import read_model, wants_places
from services.platform.models.onnx import Model
from services.platform.retraining import shadow
from services.platform.retraining.shadow import Logged
from services.platform.runtime.worker import run_worker
from services.platform.settings import Settings, settings
from services.platform.streaming.consumer import Delivered

BATCH = 500


class Decisions:
    """Reads logged decisions.

    The scorer reads places only for a champion that needs them, so for a challenger that does,
    they are read here.
    """

    def __init__(self, redis: Redis) -> None:
        self._tables = {view: OnlineTable(redis, view) for view in GRAPH}

    def prepare(self, models: tuple[Model, ...], batch: list[Delivered]) -> list[Logged]:
        """The decisions of a batch that were taken with the online store.

        Raises:
            redis.RedisError: the places can't be read.
        """
        read = [(message, event) for message in batch if (event := _event(message)) is not None]
        vectors = np.array([event.features for _, event in read], dtype=np.float64)
        vectors = vectors.reshape(-1, len(FEATURES))
        if read and any(wants_places(model) for model in models):
            vectors[:, len(TABULAR) :] = self._places([event for _, event in read])
        carts = any(model.card.sets for model in models)
        return [
            _logged(message.seq, event, vectors[i : i + 1], carts)
            for i, (message, event) in enumerate(read)
        ]

    def _places(self, events: list[DecisionEvent]) -> Floats:
        columns = []
        for view, table in self._tables.items():
            keys = [getattr(event.transaction, view.keys[0]) for event in events]
            rows = table.load([(key or "",) for key in keys])
            columns.append(place_values(rows))
        return np.hstack(columns)


def _event(message: Delivered) -> DecisionEvent | None:
    try:
        event = DecisionEvent.model_validate_json(message.data)
    except ValidationError:
        return None  # the lake writer puts it aside, with its reason
    return None if event.degraded or len(event.features) != len(FEATURES) else event


def _logged(seq: int, event: DecisionEvent, vector: Floats, with_cart: bool) -> Logged:
    transaction = event.transaction
    fields = {
        "seq": seq,
        "event_time": transaction.event_time,
        "decision_id": event.decision_id,
    }
    return Logged(fields, vector, {"items": cart_items(transaction)} if with_cart else {})


async def serve(config: Settings) -> None:
    """Run until cancelled."""
    decisions = Decisions(Redis.from_url(config.redis, socket_timeout=5.0))
    await shadow.serve(config, "fraud", read_model, decisions.prepare, DECISIONS_STREAM, BATCH)


def main() -> None:
    """Start the worker."""
    config = settings()
    run_worker(config, config.metrics_port + 2, lambda: serve(config))


if __name__ == "__main__":
    main()
