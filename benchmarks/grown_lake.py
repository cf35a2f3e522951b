"""A home as a month of small flushes leaves it, and what reading it costs.

    python -m benchmarks.grown_lake write     # 30 days of history, then 30 days in small files
    python -m benchmarks.grown_lake measure audit

It writes to the engines of the settings: give it a home of its own (`WHITEBOARD_HOME`), with its
engines running. Decisions hold the vectors that the simulated events give, so the audit must find
no mismatch. `measure` runs one reader in this process and prints seconds and peak memory.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pyarrow as pa

from services.fraud.features.backfill import WARM_UP_DAYS, backfill_states, write_states
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import request_columns
from services.fraud.features.states import FEATURE_SET, STATES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABELS_TABLE,
    TRANSACTIONS_TABLE,
)
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.history import SimulatedDataset, simulate_days, write_lake
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import Traffic
from services.platform.progress import ProgressCallback
from services.platform.settings import settings
from services.platform.storage.lake import Lake

_SEED = 7


def write(history: int, live: int, flushes: int) -> dict[str, int]:
    """Write days of history as `bootstrap` does, and live days as the lake writer does.

    Args:
        history: Days in one file each.
        live: Days after them.
        flushes: Batches of the live days; each is a file per table and date.
    """
    lake = Lake(settings())
    lake.remove(["fraud"])
    made = simulate_days(Traffic(_SEED), history + live, lambda *_: None)
    begin_us = START_US + history * DAY_US
    first_live = 1 + int(sum((d.time < begin_us).sum() + (d.label_time < begin_us).sum()
                             for d in made.days))  # fmt: skip
    write_lake(lake, _history(made, history, first_live), lambda *_: None)
    pairs = list(zip(made.days, made.seqs, strict=True))
    transactions = pa.concat_tables([transaction_table(d, s) for d, (s, _) in pairs])
    known = [(d, np.nonzero(s)[0], s) for d, (_, s) in pairs]
    labels = pa.concat_tables([label_table(d, rows, s[rows]) for d, rows, s in known])
    labels = labels.sort_by("seq")
    events = Events.from_tables(transactions, labels)
    states = backfill_states(events)
    write_states(lake, events, states, (START_US + WARM_UP_DAYS * DAY_US) / 1e6)
    before = {n: done.snapshots[events.is_transaction] for n, done in states.items()}
    count = 0
    bounds = np.linspace(first_live, made.last_seq + 1, flushes + 1).astype(np.int64)
    for number, (begin, end) in enumerate(pairwise(bounds)):
        name = f"{begin:012d}-{end - 1:012d}"
        rows = _between(transactions, begin, end)
        lake.write(TRANSACTIONS_TABLE, transactions.slice(rows.start, rows.stop - rows.start),
                   f"lake-{name}")  # fmt: skip
        some = _between(labels, begin, end)
        lake.write(LABELS_TABLE, labels.slice(some.start, some.stop - some.start), f"lake-{name}")
        part = transactions.slice(rows.start, rows.stop - rows.start)
        made_by = {n: snapshot[rows] for n, snapshot in before.items()}
        # Decisions have a stream, and sequences, of their own.
        its_name = f"lake-decisions-{count + 1:012d}-{count + len(part):012d}"
        lake.write(DECISIONS_TABLE, _decisions(part, made_by, count), its_name)
        count += len(part)
        if number % 1000 == 0:
            print(number, flush=True)
    return {"events": made.last_seq, "decisions": count}


def _history(made: SimulatedDataset, days: int, first_live: int) -> SimulatedDataset:
    seqs = [(s, np.where(t < first_live, t, 0)) for s, t in made.seqs[:days]]
    return SimulatedDataset(made.days[:days], seqs, first_live - 1)


def _between(rows: pa.Table, begin: int, end: int) -> slice:
    first, last = np.searchsorted(rows["seq"].to_numpy(), [begin, end])
    return slice(int(first), int(last))


def _decisions(rows: pa.Table, before: dict[str, np.ndarray], first: int) -> pa.Table:
    count = len(rows)
    vectors = feature_vectors(before, request_columns(rows))
    found = zip(*(before[state.name][:, 0].tolist() for state in STATES), strict=True)
    seqs = [
        [(s.name, None if np.isnan(v) else int(v)) for s, v in zip(STATES, row, strict=True)]
        for row in found
    ]
    columns = {
        **{name: rows[name] for name in rows.column_names},
        "seq": pa.array(np.arange(first + 1, first + 1 + count)),
        "decision_id": rows["transaction_id"],
        "score": pa.array(np.full(count, 0.1)),
        "threshold": pa.array(np.full(count, 0.2)),
        "degraded": pa.array(np.zeros(count, bool)),
        "synthetic": pa.array(np.zeros(count, bool)),
        "features": pa.array(list(vectors)),
        "seqs": pa.array(seqs, DECISION_SCHEMA.field("seqs").type),
        **{n: pa.array([v] * count, pa.string()) for n, v in _SAME.items()},
    }
    nulls = {f.name: pa.nulls(count, f.type) for f in DECISION_SCHEMA if f.name not in columns}
    return pa.table({**columns, **nulls}).select(DECISION_SCHEMA.names).cast(DECISION_SCHEMA)


_SAME = {
    "decision": "approve", "model_decision": "approve", "model": "xgboost:1",
    "feature_set": FEATURE_SET.hash,
}  # fmt: skip


@contextmanager
def _no_bar(title: str) -> Iterator[ProgressCallback]:
    yield lambda *_: None


def _audit() -> dict[str, object]:
    from services.fraud.monitoring.skew import audit_with_rules

    found = audit_with_rules(settings())
    return {"vectors": found.vectors, "mismatches": found.mismatches, "events": found.events,
            "gaps": found.gaps}  # fmt: skip


def _training() -> dict[str, object]:
    from services.fraud.candidates import CANDIDATES
    from services.fraud.retraining.dataset import training_data

    data = training_data(settings(), Lake(settings()), CANDIDATES.get("xgboost"), 7, _no_bar)
    return {"rows": len(data.train.positive) + len(data.validation.positive),
            "fingerprint": data.fingerprint}  # fmt: skip


def _candidates() -> dict[str, object]:
    from services.fraud.evaluation.comparison import read_dataset

    return {"rows": len(read_dataset(settings(), _no_bar).rows)}


def _quality() -> dict[str, object]:
    from services.fraud.monitoring.quality import OutcomeReader

    found = OutcomeReader(Lake(settings()))({})
    return {"rows": 0 if found is None else len(found.rows)}


def _newest() -> dict[str, object]:
    from services.fraud.monitoring.newest import newest

    return {"rows": len(newest(Lake(settings()), 5_000)[1])}


def _rebuild() -> dict[str, object]:
    from services.fraud.features.lake_fold import fold_lake

    lake = Lake(settings())
    last = int(lake.read(TRANSACTIONS_TABLE, ["seq"])["seq"][-1].as_py())
    return {"events": fold_lake(lake, last, lambda *_: None)[1]}


READERS: dict[str, Callable[[], dict[str, object]]] = {
    "audit": _audit, "training": _training, "candidates": _candidates, "quality": _quality,
    "newest": _newest, "rebuild": _rebuild,
}  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["write", "measure"])
    parser.add_argument("reader", nargs="?", choices=list(READERS), default="audit")
    parser.add_argument("--history", type=int, default=30)
    parser.add_argument("--live", type=int, default=30)
    parser.add_argument("--flushes", type=int, default=10_000)
    given = parser.parse_args()
    begin = time.monotonic()
    if given.what == "write":
        found: dict[str, object] = {**write(given.history, given.live, given.flushes)}
    else:
        found = {"reader": given.reader, **READERS[given.reader]()}
    lake = Lake(settings())
    tables = (TRANSACTIONS_TABLE, LABELS_TABLE, DECISIONS_TABLE)
    found["seconds"] = round(time.monotonic() - begin, 1)
    used = resource.getrusage(resource.RUSAGE_SELF)
    found["cpu_seconds"] = round(used.ru_utime + used.ru_stime, 1)
    found["peak_mb"] = used.ru_maxrss // 1024
    found["files"] = {table: len(lake.files(table)) for table in tables}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
