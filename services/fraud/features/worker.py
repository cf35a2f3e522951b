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

from features.aggregation import fold_events, identify
from features.online import OwnedRows
from features.redis_connection import RedisLink
from features.spec import State
from services.fraud.features.states import STATES, contributions
from services.fraud.ingestion.events import DEAD, STREAM, Event, Events, owned_subject, parse
from services.platform.runtime.worker import report_lag, run_worker, settle
from services.platform.settings import Settings, settings
from services.platform.streaming.consumer import (
    Delivered,
    OrderedConsumer,
    connect,
    consume,
    dead_letter,
)
from services.platform.telemetry import EVENTS, FRESHNESS_SECONDS

NAME = "features"
# A batch of one costs nearly what a batch of ten does; this is what freshness pays for it.
LINGER_S = 0.02


class FeatureWorker:
    """Folds batches into the rows of some states."""

    def __init__(
        self, js: JetStreamContext, redis: RedisLink, states: Sequence[State], name: str = NAME
    ) -> None:
        self._js = js
        self._states = states
        self._rows = OwnedRows(redis, states)
        self._name = name

    async def handle(self, batch: list[Delivered]) -> None:
        """Fold one batch; what can't be read goes to the dead letters.

        Raises:
            redis.RedisError, OSError, nats.errors.Error: an engine is away; try the batch again.
        """
        events, seqs = await self._parse(batch)
        if events:
            await self.fold(Events.of(events, seqs))
        now = time.time()
        for message in batch:
            FRESHNESS_SECONDS.observe(max(now - message.published_us / 1e6, 0.0))
        EVENTS.labels(self._name, "folded").inc(len(events))

    async def warm_up(self) -> None:
        """Load the compiled kernel now rather than under the first events."""
        await self.fold(Events.of([], []))

    async def fold(self, events: Events) -> None:
        """Read the rows that N events touch, fold, write them back. Raises as `handle` does."""
        found = {state.name: identify(state, events.keys) for state in self._states}
        codes = {name: rows for name, (rows, _) in found.items()}
        keys = {name: distinct for name, (_, distinct) in found.items()}
        places = self._rows.locate(keys)
        rows = await self._rows.read(places)
        fold_events(self._states, events, codes, rows, contributions)
        await self._rows.write(places, rows)

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
    consumer = OrderedConsumer(nc, STREAM, name, owned_subject(entity, shard), linger_s=LINGER_S)
    redis = RedisLink(config.redis)
    worker = FeatureWorker(nc.jetstream(), redis, states, name)
    lag = asyncio.create_task(report_lag({name: consumer}))
    await worker.warm_up()
    settle()
    try:
        await consume(consumer, worker.handle)
    finally:
        lag.cancel()
        redis.close()
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
