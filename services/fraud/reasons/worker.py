"""The reasons worker: explains declines and reviews as they are decided, off the hot path.

Killed, it begins again behind the last batch that it acknowledged, and writes the same reports.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from time import time
from typing import Any

import numpy as np
import orjson
from nats.js import JetStreamContext
from nats.js.kv import KeyValue
from prometheus_client import Histogram
from redis.exceptions import RedisError

from features.cluster.clients import open_redis
from services.fraud.features.decisions import is_current
from services.fraud.features.request import cart_set
from services.fraud.ingestion.events import (
    DECISIONS_STREAM,
    FLAGGED_DECISIONS,
    DecisionEvent,
    Transaction,
    read_published,
)
from services.fraud.model import FraudModel, read_model
from services.fraud.problem import DESIGN, OUTCOMES
from services.fraud.reasons.explainer import Explainer, Explanation, NotExplained
from services.fraud.reasons.mix import ReasonMix, alert_of_mix, write_mix
from services.fraud.reasons.parties import ChargedBackParties, with_parties
from services.fraud.reasons.report import EXPLAINED, make_report, open_bucket, store
from services.fraud.review.policy import logged_costs
from services.platform.models.names import label_version, version_path
from services.platform.models.refused import ModelRefused
from services.platform.models.tabular import TabularModel
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import Message, OrderedConsumer, consume
from services.platform.streaming.lag import report_lag
from services.platform.streaming.retry import retry_forever
from services.platform.telemetry import EVENTS

log = logging.getLogger(__name__)

NAME = "reasons"
_BATCH = 500
DELAY = Histogram(
    "reasons_delay_seconds",
    "From the decision to its stored reasons",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 30),
)


class Explainers:
    """Explainers of model versions, by the label on a decision."""

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._lake = Lake(config)
        # A version's file never changes, so that it does not explain itself is kept, too.
        self._kept = lru_cache(maxsize=4)(self._read)

    def of(self, label: str) -> Explainer:
        """The explainer of a version, or of the fallback in its file: what the label names.

        Raises:
            NotExplained: its file does not explain itself, or is gone.
            OSError: the store does not answer.
        """
        found = self._kept(label)
        if isinstance(found, str):
            raise NotExplained(found)
        return found

    def _read(self, label: str) -> Explainer | str:
        """The explainer of a version; without one, why."""
        try:
            return Explainer(_named(read_model(self._file(label)), label))
        except FileNotFoundError:
            return f"the file of {label} is gone from the store"
        except (ModelRefused, ValueError) as error:
            return str(error)

    def _file(self, label: str) -> bytes:
        own = self._config.model_file
        if own.exists():
            data = own.read_bytes()
            if _named(read_model(data), label).card.label == label:
                return data
        return self._lake.get(version_path(DESIGN, label_version(label)))


def _named(model: FraudModel, label: str) -> TabularModel:
    """The fallback in a file if a label names it, the file's model otherwise."""
    fallback = model.fallback
    return fallback if fallback is not None and fallback.card.label == label else model


def explain_event(
    explainers: Explainers, event: Mapping[str, Any]
) -> tuple[Explanation | None, str]:
    """The explanation of a decision event; without one, why.

    Raises:
        OSError: the store does not answer.
    """
    if not is_current(event.get("feature_set")):
        return None, "decided on another feature set"
    try:
        explainer = explainers.of(str(event["model"]))
    except NotExplained as error:
        return None, str(error)
    vector = np.array(event["features"], dtype=np.float64)
    transaction = Transaction.model_validate(event["transaction"], extra="ignore")
    return explainer.explain(vector, {"items": cart_set(transaction)}), ""


class ReasonsWorker:
    """Writes the reports on the declines and reviews of each batch."""

    def __init__(
        self,
        explainers: Explainers,
        parties: ChargedBackParties,
        bucket: KeyValue,
        js: JetStreamContext,
        lake: Lake,
    ) -> None:
        self._explainers = explainers
        self._parties = parties
        self._bucket = bucket
        self._js = js
        self._lake = lake
        self._mix = ReasonMix()

    async def handle(self, batch: list[Message]) -> None:
        """Explain a batch, store its reports, and publish the windows of the mix that it closed.

        Raises:
            OSError, nats.errors.Error, RedisError: an engine is away; retry the same batch.
        """
        events = [(m, event) for m in batch if (event := parse(m)) is not None]
        reports = await asyncio.to_thread(self._explain, events)
        await asyncio.gather(*(store(self._bucket, report) for report in reports))
        now = time()
        for message, event in events:
            DELAY.observe(max(now - (event.get("decided_at") or message.published_us / 1e6), 0.0))
        EVENTS.labels(NAME, "explained").inc(len(events))
        while self._mix.closed:
            row = self._mix.closed[0]
            await asyncio.to_thread(write_mix, self._lake, row)
            await alert_of_mix(self._js, row)
            self._mix.closed.popleft()

    def _explain(self, events: list[tuple[Message, dict[str, Any]]]) -> list[dict[str, Any]]:
        return [self._report(message.seq, event) for message, event in events]

    def _report(self, seq: int, event: dict[str, Any]) -> dict[str, Any]:
        found, note = explain_event(self._explainers, event)
        if found is not None and found.reasons:
            found = with_parties(found, event, self._parties)
            if counts_for_mix(event):
                explainer = self._explainers.of(str(event["model"]))
                self._mix.add(seq, event, found.reasons[0].group, explainer.mix)
        return make_report(event, found, note)


def counts_for_mix(event: Mapping[str, Any]) -> bool:
    """Whether a decision counts for the mix: the model would decline it without analysts.

    The mix of training is of such declines. How many of them are reviewed depends on the queue.
    """
    if event["degraded"] or event.get("synthetic"):
        return False
    without = replace(logged_costs(event.get("costs") or {}), slot=float("inf"))
    code = without.outcome(float(event["score"]), event["transaction"]["amount_minor"])
    return OUTCOMES[code] == "decline"


def parse(message: Message) -> dict[str, Any] | None:
    """A decline or review as its event; None for an approval, and for what is not a decision."""
    try:
        event: dict[str, Any] = orjson.loads(message.data)
        if event.get("decision") not in EXPLAINED:
            return None
    except (ValueError, AttributeError):
        return None  # the lake writer publishes it as a dead letter, with the reason
    return event if read_published(DecisionEvent, message.data, NAME) is not None else None


async def main(config: Settings) -> None:
    """Run until cancelled."""
    nc = await connect(config, f"{DESIGN}-{NAME}", timeout_s=60.0)
    consumer = OrderedConsumer(nc, DECISIONS_STREAM, NAME, FLAGGED_DECISIONS, batch=_BATCH)
    redis = open_redis(config, socket_timeout=5.0)
    lake, js = Lake(config), nc.jetstream()
    try:
        bucket = await retry_forever(lambda: open_bucket(js), "opening the bucket")
        parties = ChargedBackParties(lake, redis)
        worker = ReasonsWorker(Explainers(config), parties, bucket, js, lake)
        async with asyncio.TaskGroup() as group:
            group.create_task(report_lag({NAME: consumer}))
            group.create_task(consume(consumer, worker.handle, retry_on=(RedisError,)))
    finally:
        redis.close()
        await nc.close()
