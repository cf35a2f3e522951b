"""Refresh embeddings: compute every party's graph embedding nightly, for the lake and Redis.

There is one encoder at a time. Embeddings are features, and features are shared between models: a
second encoder would give other meanings to the same columns (docs/adr/0006). It is trained when the
first candidate that uses embeddings is trained, and again only after `models/fraud/encoder.pt` is
deleted.
"""

from collections.abc import Iterator, Sequence

import pyarrow.compute as pc
import yaml
from redis import Redis

from features.cluster.clients import open_redis
from features.online.table import OnlineTable
from features.spec import DAY
from services.fraud.features import encoder as encoders
from services.fraud.features.embedding_log import (
    EmbeddingSnapshot,
    midnights,
    snapshot_rows,
    write_embedding_log,
)
from services.fraud.features.encoder import Encoder, EncoderExamples
from services.fraud.features.graph import WINDOW_DAYS, TransactionLog, graph_snapshot
from services.fraud.features.states import EMBEDDINGS
from services.fraud.ingestion.events import ENTITIES
from services.fraud.ingestion.tables import LABELS_TABLE, TRANSACTION_SCHEMA, TRANSACTIONS_TABLE
from services.fraud.ingestion.watermark import DEFAULT_FEED, FeedTimes
from services.fraud.problem import CONF
from services.platform.memory import release_memory
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.torch.training import dump_weights, load_weights
from services.platform.types import Booleans, Floats, Integers

ENCODER = "models/fraud/encoder.pt"
_ROWS_PER_WRITE = 20_000
_RANGE = 500_000
_COLUMNS = [*ENTITIES, "event_time"]


def read_transaction_log(lake: Lake, since: float) -> TransactionLog:
    """Transactions and chargebacks that are in graphs of a moment since `since` (event time, s).

    Raises:
        OSError: S3 did not answer.
        ValueError: the lake holds no labelled transactions yet.
    """
    begin = max(since - WINDOW_DAYS * DAY, 0.0)
    transactions = lake.read(TRANSACTIONS_TABLE, [*_COLUMNS, "amount_minor"], since=begin)
    labels = lake.read(LABELS_TABLE, [*_COLUMNS, "fraud"], pc.field("fraud"), begin)
    if transactions is None or labels is None:
        raise ValueError("the lake holds no labelled transactions yet")
    return TransactionLog.of(transactions, labels)


def encoder_hyperparameters() -> dict[str, object]:
    """The encoder's hyperparameters, from `conf/encoder.yaml`."""
    return dict(yaml.safe_load((CONF / "encoder.yaml").read_text()))


def embed_at(
    encoder: Encoder, log: TransactionLog, moments: Sequence[float], step: ProgressCallback
) -> Iterator[EmbeddingSnapshot]:
    """A snapshot of the embeddings at each of the moments (event time, seconds), one at a time."""
    for number, at in enumerate(moments, start=1):
        graph = graph_snapshot(log, at)
        found = encoders.embed(encoder, graph)
        values = {view.name: found[view.keys[0]] for view in EMBEDDINGS}
        yield EmbeddingSnapshot(at, graph.last_seq, values)
        step(number, len(moments))


def ensure(
    settings: Settings,
    lake: Lake,
    days: tuple[float, float],
    known: tuple[Integers, Booleans, Floats],
    seed: int,
    bar: ProgressBar,
) -> None:
    """Train the encoder and write the snapshots of all nights so far, unless that was done.

    Args:
        days: Event time (seconds) of the days to train on, [begin, end).
        known: (sequences, whether fraud, tabular features) of the transactions of these days.
    """
    if lake.exists(ENCODER):
        return
    begin, end = days
    log = read_transaction_log(lake, begin)
    examples = EncoderExamples.of(log, *known)
    parameters = encoder_hyperparameters()
    with bar("training the graph encoder") as step:
        encoder = encoders.train(log, examples, midnights(begin, end), parameters, seed, step)
    release_memory()
    _write(settings, lake, log, encoder, midnights(begin, _newest(lake) + 1.0), bar)
    lake.put(ENCODER, dump_weights(encoder))


def refresh(settings: Settings, lake: Lake, bar: ProgressBar) -> int:
    """Compute the embeddings of all parties as of now and write them.

    Returns:
        The number of parties; 0 if there is no encoder, since no candidate uses embeddings yet.
    """
    if not lake.exists(ENCODER):
        return 0
    encoder = Encoder(encoder_hyperparameters())
    load_weights(encoder, lake.get(ENCODER))
    now = _newest(lake)
    log = read_transaction_log(lake, now)
    return _write(settings, lake, log, encoder, [now + 1e-6], bar)


def _newest(lake: Lake) -> float:
    """The newest event time, seconds, without transactions far ahead: see `feed_clock`.

    Raises:
        OSError: S3 did not answer.
        ValueError: the lake holds no transactions yet.
    """
    times = FeedTimes()
    reader = SequenceReader(lake, TRANSACTIONS_TABLE, ["event_time"], TRANSACTION_SCHEMA)
    for part in reader.parts(_RANGE):
        times.add(part)
    clocks = times.clocks()
    if not clocks:
        raise ValueError("the lake holds no transactions yet")
    return clocks[DEFAULT_FEED].newest


def _write(
    settings: Settings,
    lake: Lake,
    log: TransactionLog,
    encoder: Encoder,
    moments: Sequence[float],
    bar: ProgressBar,
) -> int:
    """Embed and log each moment, and write the last to the online store. Returns its parties."""
    with bar("computing the graph embeddings of each night") as step:
        for snapshot in embed_at(encoder, log, moments, step):
            write_embedding_log(lake, log, snapshot)
    with bar("writing the embeddings to the online store"), open_redis(settings) as redis:
        return _write_online(redis, log, snapshot)


def _write_online(redis: Redis, log: TransactionLog, snapshot: EmbeddingSnapshot) -> int:
    count = 0
    for view in EMBEDDINGS:
        keys, rows = snapshot_rows(log, snapshot, view)
        for begin in range(0, len(keys), _ROWS_PER_WRITE):
            part = slice(begin, begin + _ROWS_PER_WRITE)
            OnlineTable(redis, view).store(keys[part], rows[part])
        count += len(keys)
    return count
