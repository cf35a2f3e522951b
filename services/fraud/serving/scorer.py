"""The scorer: fetches states, computes features, scores, decides, and queues the decision."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from math import isfinite, isnan
from random import getrandbits
from time import perf_counter, time
from typing import Annotated

import numpy as np
import orjson
from prometheus_client import Counter
from pydantic import Field
from redis.exceptions import RedisError

from features.online.reader import OnlineReader
from features.redis_connection import RedisLink
from features.spec import SEQ
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import cart_set, request_features
from services.fraud.features.states import EMBEDDINGS, FEATURE_SET, STATES
from services.fraud.ingestion.events import (
    ENTITIES,
    Outcome,
    Transaction,
    decision_subject,
)
from services.fraud.model import FraudModel, needs_embeddings
from services.fraud.reasons.explainer import Reason, explainer_of
from services.fraud.review.control import is_control, propensity_of
from services.fraud.review.live import LivePolicy, in_eur
from services.fraud.review.policy import Policy
from services.fraud.rules.live import LiveRules
from services.fraud.rules.outcome import combine
from services.fraud.serving.row_cache import RowCache
from services.platform.models.served_model import ServedModel
from services.platform.models.tabular import TabularModel
from services.platform.streaming.outbox import Outbox
from services.platform.telemetry import Stages
from services.platform.types import Floats

log = logging.getLogger(__name__)

FETCH_BUDGET_S = 0.020
_PING_INTERVAL_S = 0.5
# Redis counts as unavailable after timeouts only for this long.
_MAX_TIMEOUTS_S = 0.1
# The score of a payment that neither the model nor its fallback can score. It is declined: to
# approve whatever a broken model does not score could cost any amount.
NO_SCORE = 1.0

NOT_FINITE = Counter(
    "scores_not_finite_total", "Scores that were no number: the fallback decided", ["model"]
)


@dataclass
class Decision:
    """The decision on one transaction."""

    transaction_id: str
    decision_id: str
    decision: Annotated[Outcome, Field(description="Of least expected cost")]
    score: Annotated[float, Field(ge=0, le=1, description="Probability of fraud")]
    threshold: Annotated[float, Field(description="The best single one; it decides nothing")]
    model: str
    degraded: Annotated[
        bool,
        Field(
            description="Decided by the model's fallback, without the online store; "
            "or because the model gave no score"
        ),
    ]
    model_decision: Annotated[Outcome, Field(description="What the model alone decided")]
    rules: Annotated[str, Field(description="Version of the rules")] = ""
    fired: Annotated[list[str], Field(description="Rules that fired")] = field(default_factory=list)
    control: Annotated[
        bool, Field(description="A would-be decline, approved to learn its outcome")
    ] = False
    propensity: Annotated[
        float, Field(description="Probability that it was not declined, see `review.control`")
    ] = 1.0


@dataclass
class ExplainedDecision(Decision):
    """A decision with its reasons: none if the model, or its fallback, cannot explain itself."""

    reasons: list[Reason] = field(default_factory=list)


class Scorer:
    """Decides transactions. Reading Redis is the only I/O that a decision waits for."""

    def __init__(
        self,
        champion: ServedModel[FraudModel],
        redis: RedisLink,
        outbox: Outbox,
        shards: int,
        rules: LiveRules,
        policies: LivePolicy,
        control_share: float = 0.0,
    ) -> None:
        """A scorer of one champion.

        Args:
            control_share: Share of would-be declines that is approved, see `review.control`.
        """
        self._control_share = control_share
        self._policies = policies
        self._champion = champion
        self._rules = rules
        self._redis = redis
        self._reader = OnlineReader(redis, STATES)
        self._embedding_reader = OnlineReader(redis, (*STATES, *EMBEDDINGS))
        self.cache = RowCache(STATES)
        self._outbox = outbox
        self._shards = shards
        self.redis_up = True
        self._timeouts_since = 0.0

    async def score(
        self,
        transaction: Transaction,
        body: bytes,
        stages: Stages,
        synthetic: bool = False,
        explained: bool = False,
    ) -> Decision | None:
        """Decide one transaction and queue the decision. None while no model is loaded.

        Args:
            body: The JSON of the transaction, which is logged as it is.
            stages: Measures the time of each stage.
            synthetic: See `DecisionEvent`.
            explained: Whether to return the reasons, an `ExplainedDecision`.
        """
        model = self._champion.model
        if model is None:
            return None
        keys = {entity: getattr(transaction, entity) for entity in ENTITIES}
        rows, degraded = await self._fetch(keys, needs_embeddings(model))
        stages.mark("fetch")
        decider = (model.fallback if degraded else None) or model
        if degraded:
            known = MISSING_ROWS if decider is model else self.cache.known(keys)
            rows = {name: rows.get(name, row) for name, row in known.items()}
        vector = feature_vectors(rows, np.array([request_features(transaction)]))
        stages.mark("read")
        score = _score_of(decider, vector, transaction)
        if not isfinite(score):
            decider, score, degraded = *_rescued(model, vector, transaction), True
        stages.mark("infer")
        policy = self._policies.current
        decision = decide(transaction, decider, score, degraded, policy)
        self._apply_rules(decision, transaction, vector[0])
        self._draw_control(decision, transaction)
        stages.mark("rules")
        self._publish(transaction, body, decision, vector[0], rows, synthetic, stages, policy)
        stages.mark("encode")
        if explained:
            explainer = explainer_of(decider)
            sets = {"items": cart_set(transaction)}
            reasons = explainer.explain(vector[0], sets).reasons if explainer else []
            decision = ExplainedDecision(**decision.__dict__, reasons=reasons)
            stages.mark("reasons")
        return decision

    def readiness(self) -> dict[str, bool | str | int]:
        """Whether decisions are complete; without Redis the scorer stays ready."""
        redis = "up" if self.redis_up else "down, answers are degraded"
        if self.redis_up and self._redis.away:
            redis = f"{', '.join(self._redis.away)} down, answers that need it are degraded"
        costs = orjson.dumps(in_eur(self._policies.current.costs)).decode()
        return {"redis": redis, "costs": costs, **self._rules.readiness()}

    async def connect(self) -> None:
        """Open the Redis connection before the first request."""
        with suppress(RedisError, OSError):
            await self._redis.open()

    async def watch_redis(self) -> None:
        """Ping Redis while it is unavailable, and sort the cache. Runs until cancelled."""
        while True:
            await asyncio.sleep(_PING_INTERVAL_S)
            self.cache.absorb()
            if not self.redis_up:
                with suppress(RedisError, OSError, TimeoutError):
                    await self._redis.execute([("PING",)], _PING_INTERVAL_S)
                    self.redis_up, self._timeouts_since = True, 0.0
                    log.warning("redis is available again")

    async def _fetch(
        self, keys: dict[str, str | None], embeddings: bool
    ) -> tuple[dict[str, Floats], bool]:
        """By view name, the rows (1, width) of a request's keys, and whether one was not read.

        Where one Redis has all of them and does not answer, there are none. Where a cluster's node
        does not answer, or a key is of another type, the others' rows are there.
        """
        if not self.redis_up:
            return {}, True
        try:
            reader = self._embedding_reader if embeddings else self._reader
            rows = await reader.read(keys, FETCH_BUDGET_S)
            self._timeouts_since = 0.0
            if len(rows) < len(reader):
                return rows, True
            self.cache.keep(keys, rows)
            return rows, False
        except TimeoutError:
            # One slow reply delays the replies behind it; that alone is not an outage.
            now = perf_counter()
            self._timeouts_since = self._timeouts_since or now
            if now - self._timeouts_since > _MAX_TIMEOUTS_S:
                self._mark_redis_down("redis does not answer in time")
        except (RedisError, OSError, ValueError) as error:
            self._mark_redis_down(str(error))
        return {}, True

    def _apply_rules(self, decision: Decision, transaction: Transaction, vector: Floats) -> None:
        """Combine the model's outcome with the rules that fire."""
        decision.rules = self._rules.rules.label
        fired = self._rules.fired(transaction, vector, decision.score)
        decision.fired = [rule.id for rule in fired]
        decision.decision = combine(decision.model_decision, [rule.action for rule in fired])

    def _draw_control(self, decision: Decision, transaction: Transaction) -> None:
        """Approve a would-be decline where the draw says so. 2 us, in one request of a hundred."""
        if decision.decision == "decline":
            chance = propensity_of(transaction.amount_minor, self._control_share)
            decision.propensity = chance
            if is_control(transaction.transaction_id, chance):
                decision.decision, decision.control = "approve", True

    def _mark_redis_down(self, reason: str) -> None:
        log.warning("scoring without the online store: %s", reason)
        self.redis_up = False

    def _publish(
        self,
        transaction: Transaction,
        body: bytes,
        decision: Decision,
        vector: Floats,
        rows: dict[str, Floats],
        synthetic: bool,
        stages: Stages,
        policy: Policy,
    ) -> None:
        """Queue the decision, with the features and row sequences that the skew audit compares."""
        seqs = {name: _seq(row) for name, row in rows.items()}
        event = {
            **decision.__dict__,
            "synthetic": synthetic,
            "transaction": orjson.Fragment(body),
            "features": vector,
            "seqs": seqs,
            "feature_set": FEATURE_SET.hash,
            "stage_seconds": stages.times,
            "decided_at": time(),
            "costs": policy.logged,
        }
        data = orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY)
        subject = decision_subject(transaction.customer_id, decision.decision, self._shards)
        self._outbox.put(subject, decision.decision_id, data)


# By view name, rows of entities that the online store does not know.
MISSING_ROWS = {state.name: np.full((1, state.width), np.nan) for state in STATES}


def _score_of(model: TabularModel, vector: Floats, transaction: Transaction) -> float:
    """A model's score of one vector (1, F) and the transaction's cart."""
    sets = {"items": cart_set(transaction)} if model.card.sets else {}
    return float(model.score(vector, sets)[0])


def _rescued(
    model: FraudModel, vector: Floats, transaction: Transaction
) -> tuple[TabularModel, float]:
    """What decides where a score is no number, and its score: the fallback's, else `NO_SCORE`."""
    NOT_FINITE.labels(model.card.label).inc()
    _log_no_score(model.card.label)
    if model.fallback is not None:
        score = _score_of(model.fallback, vector, transaction)
        if isfinite(score):
            return model.fallback, score
    return model, NO_SCORE


@cache
def _log_no_score(label: str) -> None:
    """Log it once for each version; the counter says how often."""
    log.error("%s gives scores that are no number; its fallback decides", label)


def _seq(row: Floats) -> int | None:
    """The sequence of a row (1, width); None if the row was not read."""
    value = row.item(SEQ)
    return None if isnan(value) else int(value)


def decide(
    transaction: Transaction, model: TabularModel, score: float, degraded: bool, policy: Policy
) -> Decision:
    """The outcome of least expected cost; the threshold is the best single one, to compare."""
    card = model.card
    outcome = policy.decide(score, transaction.amount_minor)
    return Decision(
        transaction_id=transaction.transaction_id,
        decision_id=f"{getrandbits(128):032x}",
        decision=outcome,
        model_decision=outcome,
        score=score,
        threshold=card.threshold,
        model=card.label,
        degraded=degraded,
    )
