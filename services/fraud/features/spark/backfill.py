"""The jobs of a backfill on Spark: one per entity type, each with the states of its shards."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import SecretStr

from features.spec import DAY, State
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.features.lake_fold import Folded, ShardLoad, keep_log_files, new_offer
from services.fraud.features.spark.request import SparkRequest
from services.fraud.features.spark.session import collected, session
from services.fraud.features.spark.shard import SUMMARY, FoldTask, ReadTask, columns_ddl
from services.fraud.features.states import STATES
from services.fraud.ingestion.columns import EventReader
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTIONS_TABLE
from services.platform.progress import ProgressBar
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# Of a shard: state, events, entities, seconds.
_Row = tuple[str, int, int, float]

# Events of a shard, all entity types alike: its sort fits into half of a heap of 1 GB.
_EVENTS_PER_SHARD = 1_000_000
_MIN_SHARDS = 8
# A task reads files of so many bytes, Parquet, or one that is larger.
_BYTES_PER_GROUP = 32_000_000


def fold_on_spark(
    config: Settings, request: SparkRequest, lake: Lake, last_seq: int, bar: ProgressBar
) -> Folded:
    """Fold the lake's events up to a sequence on Spark; writes the state log and the rows.

    Raises:
        ValueError: Spark failed, or the lake has no events where it should.
        OSError: S3 did not answer.
    """
    since = _since(lake, last_seq) if request.state_log else None
    offer, run = new_offer(last_seq), f"spark-{uuid4().hex[:8]}"
    shards = request.shards or max(_MIN_SHARDS, -(-last_seq // _EVENTS_PER_SHARD))
    events, entities = 0, dict.fromkeys((state.name for state in STATES), 0)
    loads: dict[str, ShardLoad] = {}
    with ExitStack() as stack:
        with bar("starting Spark") as step:
            spark = stack.enter_context(session(request, config.home))
            step(1, 1)
        step = stack.enter_context(bar("folding the lake's events on Spark"))
        jobs = states_by_shard()
        for entity, states in jobs.items():
            keys = tuple(dict.fromkeys([entity, *(k for s in states for k in s.keys)]))
            read = _read_task(_with_password(config), lake, keys, last_seq)
            fold = FoldTask(read.config, states, keys, since, offer, run)
            frame = _job(spark, read, fold, shards)
            done: list[_Row] = collected(frame, step, len(jobs) * (read.groups + shards))
            for name, _, count, _ in done:
                entities[name] += count
            loads[entity] = _load([row for row in done if row[0] == states[-1].name])
            # Every event has the first state's entity, a customer.
            events = events or sum(row[1] for row in done)
    if request.state_log:
        for state in STATES:
            keep_log_files(lake, state, lambda file: f"/{run}-" in file)
    return Folded(offer, events, entities, loads)


def states_by_shard() -> Mapping[str, Sequence[State]]:
    """The states by the entity that their rows are sharded by, in the order of folding.

    >>> {entity: [s.name for s in states] for entity, states in states_by_shard().items()}[
    ...     "device_id"]
    ['customer_device_state', 'device_state']
    """
    found: dict[str, list[State]] = {}
    for state in STATES:
        found.setdefault(state.shard, []).append(state)
    for entity, states in found.items():
        if apart := {s.name for one in states for s in one.together if s.shard != entity}:
            raise ValueError(f"{sorted(apart)} must be sharded by {entity}, like what needs them")
    return found


def _job(spark: "SparkSession", read: ReadTask, fold: FoldTask, shards: int) -> "DataFrame":
    """A row a state of each shard: the columns of `SUMMARY`."""
    return (
        spark.range(0, read.groups, 1, max(read.groups, 1))
        .mapInArrow(read, columns_ddl(read.entities))
        .repartition(shards, read.entities[0])
        .sortWithinPartitions("seq")
        .mapInArrow(fold, ", ".join(f"{name} {kind}" for name, kind in SUMMARY.items()))
    )


def _load(rows: Sequence[_Row]) -> ShardLoad:
    """The load of a job's shards, a row each."""
    events, seconds = [row[1] for row in rows], [row[3] for row in rows]
    return ShardLoad(
        len(rows),
        round(median(events)),
        max(events),
        round(median(seconds), 2),
        round(max(seconds), 2),
    )


def _read_task(config: Settings, lake: Lake, entities: Sequence[str], last_seq: int) -> ReadTask:
    transactions, labels = _groups(lake, TRANSACTIONS_TABLE), _groups(lake, LABELS_TABLE)
    return ReadTask(config, transactions, labels, entities, last_seq)


def _groups(lake: Lake, table: str) -> list[list[str]]:
    """A table's files, in groups for one task each."""
    groups: list[list[str]] = []
    size = _BYTES_PER_GROUP
    for info in lake.infos(table):
        if size >= _BYTES_PER_GROUP:
            groups.append([])
            size = 0
        groups[-1].append(info.path)
        size += info.size
    return groups


def _since(lake: Lake, last_seq: int) -> float:
    """The event time from which states are logged, as by the embedded backfill."""
    oldest = EventReader(lake).begin(last_seq)
    if last_seq and oldest is None:
        raise ValueError(f"the lake holds no events up to {last_seq}: it was lost")
    return (oldest or 0.0) + WARM_UP_DAYS * DAY


def _with_password(config: Settings) -> Settings:
    """Settings for other machines, which have no home with a password."""
    return config.model_copy(update={"password": SecretStr(config.plain_password)})
