"""What Spark's Python workers run: reading files of the lake, and folding one shard.

Both are generators over Arrow batches, so a worker holds a batch, and a fold one chunk besides.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from features.aggregation import RowTable
from features.spec import State
from features.state_log import write_log
from services.fraud.features.lake_fold import fold_chunk, write_rows
from services.fraud.features.ownership.handover import Offer
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.columns import seconds as to_seconds
from services.fraud.ingestion.tables import (
    LABEL_SCHEMA,
    STATE_LOG,
    TRANSACTION_SCHEMA,
)
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

# Events folded at once: two states' snapshots of them take 40 MB.
CHUNK = 100_000
_ROWS_PER_BATCH = 50_000
_TRANSACTION, _GENUINE, _FRAUD = 0, 1, 2
_NAMES = {"seq": "bigint", "time_us": "bigint", "kind": "tinyint", "amount_minor": "bigint"}
# What a fold answers: a row a state of a shard.
SUMMARY = {"state": "string", "events": "bigint", "entities": "bigint", "seconds": "double"}
_SUMMARY_SCHEMA = pa.schema(
    [
        ("state", pa.string()),
        ("events", pa.int64()),
        ("entities", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def columns_ddl(entities: Sequence[str]) -> str:
    """Spark's declaration of the columns of `read_events`."""
    return ", ".join(f"{n} {t}" for n, t in {**_NAMES, **dict.fromkeys(entities, "string")}.items())


@dataclass(frozen=True)
class ReadTask:
    """Reads events of the lake.

    Attributes:
        config: Where the lake is.
        transactions: Groups of files.
        labels: Groups of files, numbered behind those of transactions.
        entities: Columns of keys; the first one is the shard's, and rows without it are left out.
        last_seq: Events up to this sequence.
    """

    config: Settings
    transactions: Sequence[Sequence[str]]
    labels: Sequence[Sequence[str]]
    entities: Sequence[str]
    last_seq: int

    @property
    def groups(self) -> int:
        """How many groups of files there are."""
        return len(self.transactions) + len(self.labels)

    def __call__(self, numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Events of the groups of files with these numbers (column `id`)."""
        lake = Lake(self.config)
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                yield from self._read(lake, number)

    def _read(self, lake: Lake, number: int) -> Iterator[pa.RecordBatch]:
        is_label = number >= len(self.transactions)
        schema = LABEL_SCHEMA if is_label else TRANSACTION_SCHEMA
        files = (*self.transactions, *self.labels)[number]
        source = ds.dataset(list(files), schema, filesystem=lake.filesystem, format="parquet")
        batches = source.to_batches(
            columns=["seq", "event_time", *self.entities, "fraud" if is_label else "amount_minor"],
            filter=(pc.field("seq") <= self.last_seq) & pc.field(self.entities[0]).is_valid(),
            batch_size=_ROWS_PER_BATCH,
            # Read ahead little: Spark's other workers read, too.
            batch_readahead=1,
            fragment_readahead=1,
        )
        for rows in batches:
            if rows.num_rows:
                yield self._encode(rows, is_label)

    def _encode(self, rows: pa.RecordBatch, is_label: bool) -> pa.RecordBatch:
        count = rows.num_rows
        if is_label:
            fraud = rows["fraud"].to_numpy(zero_copy_only=False)
            kind = np.where(fraud, _FRAUD, _GENUINE).astype(np.int8)
            amount = pa.array(np.zeros(count, np.int64))
        else:
            kind = np.full(count, _TRANSACTION, np.int8)
            amount = rows["amount_minor"]
        time_us = rows["event_time"].cast(pa.int64())
        keys = [rows[entity] for entity in self.entities]
        columns = [rows["seq"], time_us, pa.array(kind), amount, *keys]
        return pa.RecordBatch.from_arrays(columns, names=[*_NAMES, *self.entities])


@dataclass(frozen=True)
class FoldTask:
    """Folds the events of one shard, in order of their sequence.

    Attributes:
        config: Where the lake is.
        states: States that share the shard's entity, in the order of folding.
        entities: Columns of keys.
        since: Event time from which states are logged; None for no log.
        offer: Where the rows go.
        run: How the names of the log's files begin.
    """

    config: Settings
    states: Sequence[State]
    entities: Sequence[str]
    since: float | None
    offer: Offer
    run: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Fold a shard, write its log and rows. Yields the columns of `SUMMARY`.

        Names of files depend on the shard alone, so a task that Spark runs again overwrites them.
        """
        from pyspark import TaskContext

        begin = time.process_time()
        context = TaskContext.get()
        shard = context.partitionId() if context else 0
        lake = Lake(self.config)
        tables = {state.name: RowTable(state) for state in self.states}
        counts = dict.fromkeys(tables, 0)
        for number, rows in enumerate(_chunks(batches)):
            events = self._events(rows)
            for folded in fold_chunk(self.states, tables, events):
                counts[folded.state.name] += int(np.count_nonzero(folded.rows >= 0))
                if self.since is not None:
                    name = f"{self.run}-{shard:05d}-{number:06d}"
                    write_log(lake, STATE_LOG, events, folded, self.since, name)
        for table in tables.values():
            write_rows(lake, self.offer, table, f"shard-{shard:05d}")
        entities = [len(table.keys) for table in tables.values()]
        seconds = [time.process_time() - begin] * len(tables)
        columns = [list(tables), list(counts.values()), entities, seconds]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _SUMMARY_SCHEMA, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SUMMARY_SCHEMA)

    def _events(self, rows: pa.Table) -> Events:
        kind = rows["kind"].to_numpy()
        return Events(
            seq=rows["seq"].to_numpy(),
            time=to_seconds(rows["time_us"].to_numpy()),
            is_transaction=kind == _TRANSACTION,
            amount=rows["amount_minor"].to_numpy() / 100.0,
            chargeback=kind == _FRAUD,
            keys={entity: rows[entity].to_numpy() for entity in self.entities},
        )


def _chunks(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches in order of `seq`, joined to chunks, each event once.

    >>> one = pa.RecordBatch.from_pydict({"seq": [1, 2, 2]})
    >>> two = pa.RecordBatch.from_pydict({"seq": [2, 3]})
    >>> [rows["seq"].to_pylist() for rows in _chunks(iter([one, two]))]
    [[1, 2, 3]]
    """
    held: list[pa.RecordBatch] = []
    count, last = 0, 0
    for batch in batches:
        seq = batch["seq"].to_numpy()
        # A batch of the lake may be written twice: the lake keeps one row a sequence when read.
        is_new = np.diff(seq, prepend=last) > 0
        last = int(seq[-1]) if len(seq) else last
        held.append(batch if is_new.all() else batch.filter(pa.array(is_new)))
        count += held[-1].num_rows
        if count >= CHUNK:
            yield pa.Table.from_batches(held).combine_chunks()
            held, count = [], 0
    if count:
        yield pa.Table.from_batches(held).combine_chunks()
