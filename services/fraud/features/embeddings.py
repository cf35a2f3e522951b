"""Refresh embeddings: compute every party's graph embedding nightly, for the lake and Redis.

There is one encoder at a time. Embeddings are features, and features are shared between models: a
second encoder would give other meanings to the same columns (docs/adr/0006). It is trained when the
first candidate that uses embeddings is trained, and again only after `models/fraud/encoder.pt` is
deleted.
"""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow.compute as pc
import yaml
from redis import Redis

from features.cluster.clients import open_redis
from features.online.table import OnlineTable
from features.spec import DAY, SEQ, Key
from services.fraud.features import encoder as encoders
from services.fraud.features.embedding_log import (
    EmbeddingSnapshot,
    is_logged,
    midnights,
    snapshot_rows,
    write_embedding_log,
)
from services.fraud.features.encoder import Encoder, EncoderExamples
from services.fraud.features.graph import WINDOW_DAYS, TransactionLog, graph_snapshot
from services.fraud.features.states import EMBEDDINGS
from services.fraud.ingestion.events import ENTITIES
from services.fraud.ingestion.tables import (
    LABEL_SCHEMA,
    LABELS_TABLE,
    TRANSACTION_SCHEMA,
    TRANSACTIONS_TABLE,
)
from services.fraud.ingestion.watermark import FeedClock, FeedTimes
from services.fraud.problem import CONF
from services.platform.memory import release_memory
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.settings import Settings
from services.platform.storage.lake import LAST, Lake, event_time_before
from services.platform.storage.sequences import SequenceReader
from services.platform.torch.training import dump_weights, load_weights
from services.platform.types import Booleans, Floats, Integers

ENCODER = "models/fraud/encoder.pt"
_ROWS_PER_WRITE = 20_000
_RANGE = 500_000
_COLUMNS = [*ENTITIES, "event_time"]


def read_transaction_log(lake: Lake, since: float, until: float = LAST) -> TransactionLog:
    """Transactions and chargebacks that are in graphs of the moments from `since` to `until`.

    Args:
        since: Event time, seconds.
        until: Event time, seconds.

    Raises:
        OSError: S3 did not answer.
        ValueError: the lake holds no transactions of that time.
    """
    begin = max(since - WINDOW_DAYS * DAY, 0.0)
    known = event_time_before(datetime.fromtimestamp(until, UTC))
    transactions = lake.read(TRANSACTIONS_TABLE, [*_COLUMNS, "amount_minor"], known, begin)
    labels = lake.read(LABELS_TABLE, [*_COLUMNS, "fraud"], known & pc.field("fraud"), begin)
    if transactions is None:
        raise ValueError("the lake holds no labelled transactions yet")
    return TransactionLog.of(transactions, LABEL_SCHEMA.empty_table() if labels is None else labels)


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
    """Train the encoder and write the snapshots of all feeds' nights, unless that was done.

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
    nights = _nights(lake, begin)
    with bar("training the graph encoder") as step:
        trained_on = [night for night in nights if night < end]
        encoder = encoders.train(log, examples, trained_on, parameters, seed, step)
    release_memory()
    _write(settings, lake, log, encoder, nights, bar)
    lake.put(ENCODER, dump_weights(encoder))


def refresh(settings: Settings, lake: Lake, bar: ProgressBar) -> int:
    """Compute the embeddings of all parties as of each feed's present, and write them.

    A feed has a time of its own (ADR 18): while a file of another year is replayed, live traffic
    stays where it is. A feed without transactions since its last snapshot keeps that one; what
    Redis lost, `whiteboard rebuild fraud` restores.

    Returns:
        The number of rows; 0 if there is no encoder, since no candidate uses embeddings yet.
    """
    if not lake.exists(ENCODER):
        return 0
    encoder = Encoder(encoder_hyperparameters())
    load_weights(encoder, lake.get(ENCODER))
    newest = sorted(clock.newest for clock in _clocks(lake).values())
    return sum(_refresh_at(settings, lake, encoder, at + 1e-6, bar) for at in _presents(newest))


def _refresh_at(
    settings: Settings, lake: Lake, encoder: Encoder, at: float, bar: ProgressBar
) -> int:
    log = read_transaction_log(lake, at, at)
    if is_logged(lake, int(log.seq.max(initial=0))):
        return 0
    return _write(settings, lake, log, encoder, [at], bar)


def _clocks(lake: Lake) -> dict[str, FeedClock]:
    """Each feed's clock, see `feed_clock`.

    Raises:
        OSError: S3 did not answer.
        ValueError: the lake holds too few transactions yet.
    """
    times = FeedTimes()
    reader = SequenceReader(lake, TRANSACTIONS_TABLE, ["event_time", "feed"], TRANSACTION_SCHEMA)
    for part in reader.parts(_RANGE):
        times.add(part)
    clocks = times.clocks()
    if not clocks:
        raise ValueError("the lake holds no transactions yet")
    return clocks


def _nights(lake: Lake, begin: float) -> list[float]:
    """The midnights of all feeds from `begin` on, in order (event time, seconds)."""
    spans = [(max(begin, c.begin), c.newest + 1.0) for c in _clocks(lake).values()]
    return sorted({night for span in spans for night in midnights(*span)})


def _presents(moments: Sequence[float]) -> list[float]:
    """Those of some moments in order that no other follows within a day.

    Feeds within a day of each other have one present, the newest.

    >>> _presents([0.0, 0.5 * DAY, 300 * DAY])
    [43200.0, 25920000.0]
    """
    following = [*moments[1:], math.inf]
    return [at for at, later in zip(moments, following, strict=True) if later - at > DAY]


def _write(
    settings: Settings,
    lake: Lake,
    log: TransactionLog,
    encoder: Encoder,
    moments: Sequence[float],
    bar: ProgressBar,
) -> int:
    """Embed and log each moment, and write each feed's last to the online store.

    Returns:
        The number of rows there.
    """
    presents, last = set(_presents(moments)), []
    with bar("computing the graph embeddings of each night") as step:
        for snapshot in embed_at(encoder, log, moments, step):
            write_embedding_log(lake, log, snapshot)
            if snapshot.at in presents:
                last.append(snapshot)
    with bar("writing the embeddings to the online store"), open_redis(settings) as redis:
        return sum(_write_online(redis, log, snapshot) for snapshot in last)


def _write_online(redis: Redis, log: TransactionLog, snapshot: EmbeddingSnapshot) -> int:
    """Write a snapshot's rows, but for parties that have one of later arrivals: another feed's."""
    count = 0
    for view in EMBEDDINGS:
        keys, rows = snapshot_rows(log, snapshot, view)
        for begin in range(0, len(keys), _ROWS_PER_WRITE):
            part = slice(begin, begin + _ROWS_PER_WRITE)
            count += _store_unless_newer(OnlineTable(redis, view), keys[part], rows[part])
    return count


def _store_unless_newer(table: OnlineTable, keys: list[Key], rows: Floats) -> int:
    [chosen] = np.nonzero(~(table.load(keys)[:, SEQ] > rows[:, SEQ]))
    table.store([keys[i] for i in chosen], rows[chosen])
    return len(chosen)
