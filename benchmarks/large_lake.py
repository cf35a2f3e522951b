"""A lake of many events: simulated days, each event as many times as asked, of as many parties.

    python -m benchmarks.large_lake --days 50 --times 8    # 8 million events

It writes to the engines of the settings: give it a home of its own (`WHITEBOARD_HOME`), with its
engines running. Copy k of an event is of copy k of its parties (`c17.k`), right behind the event in
the stream: events and parties grow alike, and the events of all copies alternate. `--hot 0.5` makes
half of all events those of one merchant. `--file FILE` writes the events of a file in their place:
its transactions and, `label_delay_days` of its mapping later, their labels.
The stream of events begins behind them: `whiteboard backfill fraud --no-wait` reads them all.
"""

import argparse
import asyncio
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.ingestion.events import ENTITIES, STREAM, LabelEvent
from services.fraud.ingestion.mapping import FileMapping
from services.fraud.ingestion.replay import replayed_events
from services.fraud.ingestion.tables import (
    LABEL_SCHEMA,
    LABELS_TABLE,
    TRANSACTION_SCHEMA,
    TRANSACTIONS_TABLE,
)
from services.fraud.ingestion.transaction_file import TransactionFile
from services.fraud.simulator.bootstrap import create_streams
from services.fraud.simulator.history import simulate_days
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import Traffic
from services.platform.settings import Settings, settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect

_SEED = 7
_EVENTS_A_FILE = 100_000
_SCHEMAS = {TRANSACTIONS_TABLE: TRANSACTION_SCHEMA, LABELS_TABLE: LABEL_SCHEMA}


def write(config: Settings, days: int, times: int, hot: float = 0.0) -> int:
    """Write the lake and create the streams. Returns how many events there are."""
    lake = Lake(config)
    lake.remove(["fraud"])
    made = simulate_days(Traffic(_SEED), days, lambda *_: None)
    for day, (seq, label_seq) in zip(made.days, made.seqs, strict=True):
        known = np.nonzero(label_seq)[0]
        tables = {
            TRANSACTIONS_TABLE: transaction_table(day, seq),
            LABELS_TABLE: label_table(day, known, label_seq[known]),
        }
        for table, rows in tables.items():
            lake.write(
                table,
                heated(multiplied(rows, times), hot),
                f"history-{day.number:05d}",
                table == TRANSACTIONS_TABLE,
            )
        print(day.number, flush=True)
    asyncio.run(_begin_streams(config, made.last_seq * times))
    return made.last_seq * times


def write_file(config: Settings, file: Path, mapping: str) -> int:
    """Write the lake from a file of transactions, see `whiteboard replay`. Returns the events."""
    lake = Lake(config)
    lake.remove(["fraud"])
    seq = 0
    with TransactionFile(file, FileMapping.load(mapping)) as source:
        events = replayed_events(source)
        while part := list(islice(events, _EVENTS_A_FILE)):
            rows: dict[str, list[dict[str, object]]] = {TRANSACTIONS_TABLE: [], LABELS_TABLE: []}
            for one in (simulated.event for simulated in part):
                seq += 1
                table = LABELS_TABLE if isinstance(one, LabelEvent) else TRANSACTIONS_TABLE
                rows[table].append({"seq": seq, **one.model_dump()})
            for table, schema in _SCHEMAS.items():
                made = pa.Table.from_pylist(rows[table], schema)
                lake.write(table, made, f"history-{seq:09d}", table == TRANSACTIONS_TABLE)
            print(seq, flush=True)
    asyncio.run(_begin_streams(config, seq))
    return seq


def multiplied(rows: pa.Table, times: int) -> pa.Table:
    """N rows as N * times rows, in order of their sequences."""
    if times == 1:
        return rows
    rows = rows.sort_by("seq")
    copies = np.tile(np.arange(times), len(rows))
    found = rows.take(pa.array(np.repeat(np.arange(len(rows)), times)))
    suffix = pa.array([f".{copy}" for copy in range(times)]).take(pa.array(copies))
    for entity in (*ENTITIES, "transaction_id"):
        index = found.column_names.index(entity)
        named = pc.binary_join_element_wise(found[entity], suffix, "")
        found = found.set_column(index, found.schema.field(entity), named)
    seq = (found["seq"].to_numpy() - 1) * times + copies + 1
    return found.set_column(0, found.schema.field("seq"), pa.array(seq))


def heated(rows: pa.Table, share: float) -> pa.Table:
    """A share of N rows, by their sequences, is of one merchant; the others stay as they are."""
    if not share:
        return rows
    is_hot = pa.array(rows["seq"].to_numpy() % 1000 < share * 1000)
    index = rows.column_names.index("merchant_id")
    merchants = pc.if_else(is_hot, pa.scalar("hot"), rows["merchant_id"])
    return rows.set_column(index, rows.schema.field("merchant_id"), merchants)


async def _begin_streams(config: Settings, last_seq: int) -> None:
    nc = await connect(config, "large-lake")
    try:
        js = nc.jetstream()
        for stream in await js.streams_info():
            if stream.config.name == STREAM:
                await js.delete_stream(STREAM)
        await create_streams(js, last_seq)
    finally:
        await nc.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=50)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--hot", type=float, default=0.0)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--mapping", default="handbook")
    given = parser.parse_args()
    if given.file is None:
        events = write(settings(), given.days, given.times, given.hot)
    else:
        events = write_file(settings(), given.file, given.mapping)
    print(json.dumps({"events": events}))


if __name__ == "__main__":
    main()
