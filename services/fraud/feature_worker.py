"""The feature worker: folds the stream into the online store, and acknowledges after the write.

One process owns a set of rows: all of them, or one shard of one entity (`--entity merchant_id
--shard 3`, a process a shard). It reads the rows a batch touches, folds, writes them back. Killed
anywhere in between, it folds the batch again, and `seq` makes that harmless.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence

from nats.js import JetStreamContext
from redis import Redis

from features.folding import fold_events, identify
from features.online import OnlineTable, load_many, store_many
from features.spec import State
from services.fraud.features import STATES, contributions
from services.fraud.ingestion import DEAD, STREAM, Event, Events, owned_subjects, parse
from services.skeleton.process import report_lag, run_worker
from services.skeleton.settings import Settings, settings
from services.skeleton.stream import Delivered, OrderedConsumer, connect, consume, dead_letter
from services.skeleton.telemetry import EVENTS, FRESHNESS_SECONDS

NAME = "features"
# A batch of one costs nearly what a batch of ten does; this is what freshness pays for it.
LINGER_S = 0.005


class FeatureWorker:
    """Folds batches into the rows of some states."""

    def __init__(
        self, js: JetStreamContext, redis: Redis, states: Sequence[State], name: str = NAME
    ) -> None:
        self._js = js
        self._states = states
        self._redis = redis
        self._tables = {state.name: OnlineTable(redis, state) for state in states}
        self._name = name

    async def handle(self, batch: list[Delivered]) -> None:
        """Fold one batch; what can't be read goes to the dead letters.

        Raises:
            redis.RedisError, nats.errors.Error: an engine is away; try the same batch again.
        """
        events, seqs = await self._parse(batch)
        if events:
            self.fold(Events.of(events, seqs))
        now = time.time()
        for message in batch:
            FRESHNESS_SECONDS.observe(max(now - message.published_us / 1e6, 0.0))
        EVENTS.labels(self._name, "folded").inc(len(events))

    def warm_up(self) -> None:
        """Load the compiled kernel now rather than under the first events."""
        self.fold(Events.of([], []))

    def fold(self, events: Events) -> None:
        """Read the rows that N events touch, fold, write them back. Raises redis.RedisError."""
        found = {state.name: identify(state, events.keys) for state in self._states}
        rows = {name: codes for name, (codes, _) in found.items()}
        loaded = load_many(self._redis, [(self._tables[n], keys) for n, (_, keys) in found.items()])
        tables = dict(zip(found, loaded, strict=True))
        fold_events(self._states, events, rows, tables, contributions)
        store_many(
            self._redis, [(self._tables[n], keys, tables[n]) for n, (_, keys) in found.items()]
        )

    async def _parse(self, batch: list[Delivered]) -> tuple[list[Event], list[int]]:
        events: list[Event] = []
        seqs: list[int] = []
        for message in batch:
            try:
                events.append(parse(message))
                seqs.append(message.seq)
            except ValueError as error:
                await dead_letter(self._js, DEAD, self._name, message, str(error))
                EVENTS.labels(self._name, "dead").inc()
        return events, seqs


async def serve(config: Settings, entity: str | None, shard: int | None) -> None:
    """Run one worker until cancelled."""
    nc = await connect(config, "feature-worker", patience_s=60.0)
    name = NAME if entity is None else f"{NAME}-{entity}-{shard}"
    states = [s for s in STATES if entity in (None, s.shard)]
    subjects = owned_subjects(entity, shard)
    consumer = OrderedConsumer(nc, STREAM, name, subjects, linger_s=LINGER_S)
    redis = Redis.from_url(config.redis, socket_timeout=5.0)
    worker = FeatureWorker(nc.jetstream(), redis, states, name)
    lag = asyncio.create_task(report_lag({name: consumer}))
    worker.warm_up()
    try:
        await consume(consumer, worker.handle)
    finally:
        lag.cancel()
        await nc.close()


def main() -> None:
    """Start a worker from the command line."""
    parser = argparse.ArgumentParser(prog="feature_worker", description=__doc__)
    entities = sorted({state.shard for state in STATES})
    parser.add_argument("--entity", choices=entities, help="own one shard of this entity")
    parser.add_argument("--shard", type=int, help="which shard")
    parser.add_argument("--metrics-port", type=int, help="Prometheus port")
    options = parser.parse_args()
    if (options.entity is None) != (options.shard is None):
        parser.error("--entity and --shard go together")
    config = settings()
    if options.shard is not None and not 0 <= options.shard < config.shards:
        parser.error(f"--shard {options.shard}: there are {config.shards} shards, from 0")
    port = options.metrics_port or config.metrics_port
    run_worker(config, port, lambda: serve(config, options.entity, options.shard))


if __name__ == "__main__":
    main()
