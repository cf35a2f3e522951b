"""Shadow mode: the challenger scores the champion's decisions, off the hot path.

A process of its own consumes the stream of decisions and scores the logged vectors with the
challenger; some of them singly and with the champion too, to compare the times of their calls.
It cannot affect a response: it runs at idle priority, samples if the challenger is slow, and ends
if a call of the challenger hangs or crashes; Supervisor or Docker restarts it. A slow store, where
inputs are, only delays it. The command that waits for its scores has a timeout of its own.
"""

import asyncio
import logging
import math
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from nats.errors import Error as NatsError

from services.platform.models.names import CHALLENGER
from services.platform.models.onnx import ScoringModel
from services.platform.models.served_model import M, ServedModel
from services.platform.models.tabular import pad_sets
from services.platform.runtime.tasks import cancel_tasks
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect
from services.platform.streaming.consumer import Message, OrderedConsumer, consume
from services.platform.streaming.lag import report_lag
from services.platform.telemetry import EVENTS, LAG
from services.platform.types import Floats32

log = logging.getLogger(__name__)

NAME = "shadow"
# Time for a batch's calls; decisions that do not fit are skipped. A call that takes ten times as
# long is taken to hang. Reading what a decision was made from, as from the store, counts for none.
BATCH_BUDGET_S = 2.0
_HANG_TIMEOUT_S = 20.0
_MAX_WAIT_S = 1.0
# Per batch: number of timed calls, and decisions per call of the others.
_TIMED_CALLS, _CALL_ROWS = 16, 64
# Vectors read before they are scored, and at most one more: an image of 25 megapixels has 75 MB.
_MAX_BYTES = 128 << 20
# A batch whose inputs come from a slow store is not delivered again meanwhile.
_ACK_WAIT_S = 600.0
_POLL_S = 0.25
_DELETE_ATTEMPTS = 3

T = TypeVar("T")

SHADOW_SCHEMA = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("version", pa.int64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64()),
        pa.field("champion_seconds", pa.float64()),
    ]
)


def shadow_table(design: str) -> str:
    """Table of a design's shadow scores in the lake."""
    return f"{design}/shadow"


@dataclass(frozen=True)
class LoggedDecision:
    """One logged decision, with a model's inputs.

    Attributes:
        fields: `seq`, `event_time`, `decision_id`.
        vector: (1, ...), the model's input.
        sets: By name, the sets (1, M, K) that the models need.
    """

    fields: Mapping[str, Any]
    vector: npt.NDArray[Any]
    sets: Mapping[str, Floats32]


# (models, messages of the decision stream) -> the decisions.
Prepare = Callable[[tuple[M, ...], list[Message]], Iterable[LoggedDecision]]


class ShadowScorer(Generic[M]):
    """Scores batches of decisions with the challenger, while there is one."""

    def __init__(
        self,
        lake: Lake,
        design: str,
        champion: ServedModel[M],
        challenger: ServedModel[M],
        prepare: Prepare[M],
    ) -> None:
        """Open nothing yet.

        Args:
            champion: The model whose calls are timed for comparison.
            challenger: The model to score with.
            prepare: Returns the decisions in messages, with the inputs that these models need, and
                skips unreadable ones. Large inputs are read as they are asked for.
        """
        self._lake = lake
        self._table = shadow_table(design)
        self._champion = champion
        self._challenger = challenger
        self._prepare = prepare

    async def handle(self, batch: list[Message]) -> None:
        """Score one batch and write its scores.

        Raises:
            OSError, and what `prepare` raises: an engine is unavailable; retry the same batch.
        """
        challenger, champion = self._challenger.model, self._champion.model
        if challenger is None or champion is None:
            return
        rows = await self._score(champion, challenger, batch)
        if rows:
            table = pa.Table.from_pylist(rows, schema=SHADOW_SCHEMA)
            version = challenger.card.version
            name = f"{version}-{batch[0].seq:012d}-{batch[-1].seq:012d}"
            await asyncio.to_thread(self._lake.write, self._table, table, name)
        EVENTS.labels(NAME, "scored").inc(len(rows))
        EVENTS.labels(NAME, "skipped").inc(len(batch) - len(rows))

    async def _score(
        self, champion: M, challenger: M, batch: list[Message]
    ) -> list[dict[str, Any]]:
        """Rows of `SHADOW_SCHEMA`, of as many decisions as the batch's budget allows."""
        prepared = await asyncio.to_thread(self._prepare, (champion, challenger), batch)
        decisions = iter(prepared)
        rows: list[dict[str, Any]] = []
        budget_s = BATCH_BUDGET_S
        while budget_s > 0 and (chunk := await asyncio.to_thread(_take, decisions)):
            timed = math.ceil(_TIMED_CALLS * len(chunk) / len(batch))
            begin = perf_counter()
            work = asyncio.to_thread(_score_chunk, champion, challenger, chunk, timed, budget_s)
            rows += await _exit_if_it_hangs(work)
            budget_s -= perf_counter() - begin
            chunk.clear()  # before more is read
        return rows


def _take(decisions: Iterator[LoggedDecision]) -> list[LoggedDecision]:
    """The next decisions: no more than a call scores and memory is meant for; none at the end."""
    taken: list[LoggedDecision] = []
    size = 0
    for decision in decisions:
        taken.append(decision)
        size += decision.vector.nbytes
        if len(taken) == _CALL_ROWS or size >= _MAX_BYTES:
            break
    return taken


async def _exit_if_it_hangs(calls: Coroutine[Any, Any, T]) -> T:
    """Wait for a model's calls in a thread; one that hangs can't be ended but with the process."""
    try:
        async with asyncio.timeout(_HANG_TIMEOUT_S):
            return await calls
    except TimeoutError:
        log.critical("the challenger hangs: exiting")
        os._exit(1)


def _score_chunk(
    champion: ScoringModel,
    challenger: ScoringModel,
    decisions: list[LoggedDecision],
    timed: int,
    budget_s: float,
) -> list[dict[str, Any]]:
    """Rows of `SHADOW_SCHEMA`; about `timed` decisions are timed singly, the rest in batches."""
    deadline = perf_counter() + budget_s
    every = max(len(decisions) // timed, 1)
    rows: list[dict[str, Any]] = []
    seconds = 0.0
    for decision in decisions[::every]:
        if perf_counter() > deadline:
            return rows
        score, seconds = _timed_score(challenger, decision)
        _, champion_seconds = _timed_score(champion, decision)
        timings = {"seconds": seconds, "champion_seconds": champion_seconds}
        rows.append(_row(challenger, decision, score) | timings)
    rest = [decision for number, decision in enumerate(decisions) if number % every]
    while rest:
        # As many as would fit if a batch were no faster than single calls.
        fit = min(int((deadline - perf_counter()) / max(seconds, 1e-9)), _CALL_ROWS)
        if fit < 1:
            break
        chunk, rest = rest[:fit], rest[fit:]
        scores = _batch_scores(challenger, chunk)
        rows += [_row(challenger, *one) for one in zip(chunk, scores, strict=True)]
    return rows


async def serve(
    config: Settings,
    design: str,
    read_model: Callable[[bytes], M],
    prepare: Prepare[M],
    stream: str,
    batch: int,
    retry_on: tuple[type[Exception], ...] = (),
) -> None:
    """Shadow a design's decisions until cancelled.

    Args:
        read_model: Makes a model of a file.
        prepare: See `ShadowScorer`.
        stream: The stream of decisions.
        batch: Decisions per batch.
        retry_on: Exceptions of `prepare` that mean an engine is unavailable, besides OSError.
    """
    LAG.labels(NAME).set(0)
    nc = await connect(config, f"{design}-{NAME}", timeout_s=60.0)
    champion = ServedModel(config, design, read_model)
    await asyncio.to_thread(champion.load)
    challenger = ServedModel(config, design, read_model, CHALLENGER)
    shadow = ShadowScorer(Lake(config), design, champion, challenger, prepare)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(champion.watch(nc))
            group.create_task(challenger.watch(nc))
            while True:
                await _wait_for(challenger, present=True)
                consumer = OrderedConsumer(
                    nc, stream, NAME, batch=batch, max_wait_s=_MAX_WAIT_S, new_only=True,
                    ack_wait_s=_ACK_WAIT_S,
                )  # fmt: skip
                await _consume(consumer, shadow, challenger, retry_on)
    finally:
        await nc.close()


async def _consume(
    consumer: OrderedConsumer,
    shadow: ShadowScorer[M],
    challenger: ServedModel[M],
    retry_on: tuple[type[Exception], ...],
) -> None:
    """Consume decisions while there is a challenger.

    Without one, reading would be wasted work, at half the cost of making the decisions.
    """
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(consume(consumer, shadow.handle, retry_on=retry_on))
        reporting = group.create_task(report_lag({NAME: consumer}))
        await _wait_for(challenger, present=False)
        await cancel_tasks(reading, reporting)
    LAG.labels(NAME).set(0)
    # If an outage prevents the deletion, the next challenger starts where this one ended.
    for _ in range(_DELETE_ATTEMPTS):
        with suppress(NatsError, OSError, TimeoutError):
            await consumer.delete()
            return


async def _wait_for(challenger: ServedModel[M], present: bool) -> None:
    """Wait until there is a challenger, or until there is none."""
    while (challenger.model is not None) is not present:
        await asyncio.sleep(_POLL_S)


def _row(challenger: ScoringModel, decision: LoggedDecision, score: float) -> dict[str, Any]:
    card = challenger.card
    return {
        **decision.fields,
        "version": card.version,
        "model": card.label,
        "score": score,
        "threshold": card.threshold,
    }


def _timed_score(model: ScoringModel, decision: LoggedDecision) -> tuple[float, float]:
    """(score, seconds) of one call for one row, as in serving."""
    begin = perf_counter()
    [score] = model.score(decision.vector, decision.sets)
    return float(score), perf_counter() - begin


def _batch_scores(model: ScoringModel, decisions: list[LoggedDecision]) -> list[float]:
    """Scores of decisions, in one call, or in one each if their inputs differ in shape."""
    if len({decision.vector.shape for decision in decisions}) > 1:
        return [_timed_score(model, decision)[0] for decision in decisions]
    vectors = np.concatenate([decision.vector for decision in decisions])
    names = decisions[0].sets
    sets = {name: pad_sets([decision.sets[name] for decision in decisions]) for name in names}
    return [float(score) for score in model.score(vectors, sets)]
