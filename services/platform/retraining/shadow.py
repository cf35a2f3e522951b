"""Shadow mode: the challenger scores what the champion decided, off the hot path.

A process of its own follows the stream of decisions and scores the logged vectors with the
challenger; some of them one by one, and with the champion again, for a fair comparison of time.
Nothing it does can reach a response: it runs when nobody else wants the processor, a challenger
that is slow is sampled, one that hangs or crashes takes this process down, and Supervisor or Docker
starts it again. Whoever waits for its scores gives up by its own clock.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from nats.errors import Error as NatsError

from services.platform.models.onnx import Floats32, Scoring, stacked
from services.platform.models.served_model import Challenger, Champion, M
from services.platform.runtime.worker import end, report_lag, stand_aside
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Delivered, OrderedConsumer, connect, consume
from services.platform.telemetry import EVENTS, LAG

log = logging.getLogger(__name__)

NAME = "shadow"
# A batch gets this long; decisions that do not fit are left out. A call that takes ten times as
# long does not come back.
BATCH_BUDGET_S = 2.0
_HANGS_S = 20.0
_LINGER_S = 1.0
# Of a batch: how many calls are timed, and how many decisions the others take at once.
_TIMED, _TOGETHER = 16, 64
_LOOK_S = 0.25
_FORGET_TRIES = 3

SHADOW = pa.schema(
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
    """The lake's table of a design's shadow scores."""
    return f"{design}/shadow"


@dataclass(frozen=True)
class Logged:
    """One logged decision, as a model is asked about it.

    Attributes:
        fields: `seq`, `event_time`, `decision_id`. vector: (1, ...), what the model looks at.
        sets: As the models need them.
    """

    fields: Mapping[str, Any]
    vector: npt.NDArray[Any]
    sets: Mapping[str, Floats32]


class Shadow(Generic[M]):
    """Scores batches of decisions with the challenger, while there is one."""

    def __init__(
        self,
        lake: Lake,
        design: str,
        champion: Champion[M],
        challenger: Challenger[M],
        prepare: Callable[[tuple[M, ...], list[Delivered]], list[Logged]],
    ) -> None:
        """Open nothing yet.

        Args:
            prepare: What messages of the decision stream logged, with all that these models
                need; those that can't be read are left out.
        """
        self._lake = lake
        self._table = shadow_table(design)
        self._champion = champion
        self._challenger = challenger
        self._prepare = prepare

    async def handle(self, batch: list[Delivered]) -> None:
        """Score one batch and write its scores.

        Raises:
            OSError, redis.RedisError: an engine is away; try the same batch again.
        """
        challenger, champion = self._challenger.model, self._champion.model
        if challenger is None or champion is None:
            return
        work = asyncio.to_thread(self._score, champion, challenger, batch)
        try:
            rows = await asyncio.wait_for(work, _HANGS_S)
        except TimeoutError:
            log.critical("the challenger hangs: ending this process")
            os._exit(1)
        if rows:
            table = pa.Table.from_pylist(rows, schema=SHADOW)
            version = challenger.card.version
            name = f"{version}-{batch[0].seq:012d}-{batch[-1].seq:012d}"
            await asyncio.to_thread(self._lake.write, self._table, table, name)
        EVENTS.labels(NAME, "scored").inc(len(rows))
        EVENTS.labels(NAME, "skipped").inc(len(batch) - len(rows))

    def _score(self, champion: M, challenger: M, batch: list[Delivered]) -> list[dict[str, Any]]:
        """Rows of `SHADOW`. Some are timed, one by one; the others are scored together."""
        asked = self._prepare((champion, challenger), batch)
        end = perf_counter() + BATCH_BUDGET_S
        every = max(len(asked) // _TIMED, 1)
        rows: list[dict[str, Any]] = []
        took = 0.0
        for logged in asked[::every]:
            if perf_counter() > end:
                return rows
            score, took = _timed(challenger, logged)
            _, champion_took = _timed(champion, logged)
            seconds = {"seconds": took, "champion_seconds": champion_took}
            rows.append(_row(challenger, logged, score) | seconds)
        rest = [logged for number, logged in enumerate(asked) if number % every]
        while rest:
            # As many as would fit even if together were no faster than one by one.
            fit = min(int((end - perf_counter()) / max(took, 1e-9)), _TOGETHER)
            if fit < 1:
                break
            some, rest = rest[:fit], rest[fit:]
            scores = _together(challenger, some)
            rows += [_row(challenger, *one) for one in zip(some, scores, strict=True)]
        return rows


async def serve(
    config: Settings,
    design: str,
    read: Callable[[bytes], M],
    prepare: Callable[[tuple[M, ...], list[Delivered]], list[Logged]],
    stream: str,
    batch: int,
) -> None:
    """Follow a design's decisions until cancelled."""
    stand_aside(os.getpid())
    LAG.labels(NAME).set(0)
    nc = await connect(config, f"{design}-{NAME}", patience_s=60.0)
    champion = Champion(config, design, read)
    await asyncio.to_thread(champion.load)
    challenger = Challenger(config, design, read)
    shadow = Shadow(Lake(config), design, champion, challenger, prepare)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(champion.watch(nc))
            group.create_task(challenger.watch(nc))
            while True:
                await _changed(challenger, there=True)
                consumer = OrderedConsumer(
                    nc, stream, NAME, batch=batch, linger_s=_LINGER_S, from_now=True
                )
                await _follow(consumer, shadow, challenger)
    finally:
        await nc.close()


async def _follow(consumer: OrderedConsumer, shadow: Shadow[M], challenger: Challenger[M]) -> None:
    """Read decisions while there is a challenger.

    Those taken without one are nobody's concern here, and to read them costs half of what it costs
    to take them.
    """
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(consume(consumer, shadow.handle))
        reporting = group.create_task(report_lag({NAME: consumer}))
        await _changed(challenger, there=False)
        await end(reading, reporting)
    LAG.labels(NAME).set(0)
    # Left behind by an outage, the next challenger begins where this one ended: no harm.
    for _ in range(_FORGET_TRIES):
        with suppress(NatsError, OSError, TimeoutError):
            await consumer.forget()
            return


async def _changed(challenger: Challenger[M], there: bool) -> None:
    """Wait until a challenger is there, or gone."""
    while (challenger.model is not None) is not there:
        await asyncio.sleep(_LOOK_S)


def _row(challenger: Scoring, logged: Logged, score: float) -> dict[str, Any]:
    card = challenger.card
    return {
        **logged.fields,
        "version": card.version,
        "model": f"{card.candidate}:{card.version}",
        "score": score,
        "threshold": card.threshold,
    }


def _timed(model: Scoring, logged: Logged) -> tuple[float, float]:
    """(score, seconds) of one call for one row, as serving makes it."""
    begin = perf_counter()
    [score] = model.score(logged.vector, logged.sets)
    return float(score), perf_counter() - begin


def _together(model: Scoring, asked: list[Logged]) -> list[float]:
    """The scores of rows in one call, or in a call each where the rows are of several shapes."""
    if len({logged.vector.shape for logged in asked}) > 1:
        return [_timed(model, logged)[0] for logged in asked]
    vectors = np.concatenate([logged.vector for logged in asked])
    sets = {name: stacked([logged.sets[name] for logged in asked]) for name in asked[0].sets}
    return [float(score) for score in model.score(vectors, sets)]
