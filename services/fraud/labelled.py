"""Labelled transactions as a model is asked about them: what gate and retraining work with.

A transaction counts once its dispute window has closed: before that only its fraud could be known,
and to judge by frauds alone would flatter whoever declines most. Its vector is the one a decision
logged. One from before the stream, which nobody was asked about, is read as of its point in time.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import compute as pc

from features.log import stack
from features.spec import DAY, SEQ_COLUMN, Booleans, Floats
from services.fraud import places as nightly
from services.fraud.features import FEATURES, GRAPH, TABULAR, places
from services.fraud.history import DECISIONS_TABLE, LABELS_TABLE, TRANSACTIONS_TABLE
from services.fraud.problem import DISPUTE_WINDOW_DAYS
from services.fraud.training import point_in_time, times
from services.skeleton.lake import Lake
from services.skeleton.settings import Settings


@dataclass(frozen=True)
class Labelled:
    """N transactions with their outcome as column `fraud`, and their vectors (N, F)."""

    rows: pa.Table
    vectors: Floats

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, chosen: Booleans) -> "Labelled":
        """Some of them."""
        return Labelled(self.rows.filter(pa.array(chosen)), self.vectors[chosen])


def labelled_rows(lake: Lake, since: float) -> pa.Table | None:
    """Transactions after `since` (event time, seconds) whose dispute window has closed."""
    transactions = lake.read(TRANSACTIONS_TABLE)
    labels = lake.read(LABELS_TABLE, ["transaction_id", "fraud"])
    if transactions is None or labels is None:
        return None
    time = times(transactions)
    until = time.max() - DISPUTE_WINDOW_DAYS * DAY
    rows = transactions.filter(pa.array((time > since) & (time < until)))
    where = pc.index_in(rows["transaction_id"], labels["transaction_id"])
    return rows.append_column("fraud", labels["fraud"].take(where)).filter(pc.is_valid(where))


def labelled(settings: Settings, lake: Lake, since: float, graph: bool) -> Labelled | None:
    """Labelled transactions after `since` with their vectors; None while there are none.

    Args:
        graph: Whether the parties' places are wanted too.
    """
    rows = labelled_rows(lake, since)
    if rows is None or not len(rows):
        return None
    logged = _logged(lake, rows)
    before = rows["seq"].to_numpy() < _stream_began(lake)
    vectors = np.full((len(rows), len(FEATURES)), np.nan)
    vectors[~before] = logged[~before]
    if before.any():
        history = rows.filter(pa.array(before)).drop_columns(["fraud"])
        vectors[before, : len(TABULAR)] = point_in_time(settings, history, graph=False)
    # Every vector that was read knows the hour of its day.
    read = ~np.isnan(vectors[:, 1])
    if graph:
        vectors[:, len(TABULAR) :] = _places(lake, rows)
    return Labelled(rows, vectors).where(read)


def _stream_began(lake: Lake) -> int:
    """Sequence of the first decided transaction's time: what is older is history."""
    files = lake.files(TRANSACTIONS_TABLE)
    live = [f for f in files if "/history-" not in f]
    # The lake writer names a file by the sequences in it.
    return min((int(f.rpartition("/")[2].split("-")[1]) for f in live), default=2**62)


def _logged(lake: Lake, rows: pa.Table) -> Floats:
    """The vectors that decisions logged, NaN where there is none or it was degraded."""
    out = np.full((len(rows), len(FEATURES)), np.nan)
    decisions = lake.read(DECISIONS_TABLE, ["transaction_id", "features", "degraded"])
    if decisions is None:
        return out
    whole = decisions.filter(pc.invert(decisions["degraded"]))
    where = pc.index_in(rows["transaction_id"], whole["transaction_id"])
    found = np.nonzero(pc.is_valid(where).to_numpy())[0]
    if len(found):
        features = whole["features"].take(where.filter(pc.is_valid(where))).combine_chunks()
        flat = pc.list_flatten(features).to_numpy(zero_copy_only=False)
        out[found] = flat.reshape(len(found), -1)
    return out


def _places(lake: Lake, rows: pa.Table) -> Floats:
    """The parties' places as the last night before each transaction wrote them."""
    columns = []
    for view, log in zip(GRAPH, nightly.log_tables(lake).values(), strict=True):
        if log is None:
            columns.append(np.full((len(rows), view.size), np.nan))
            continue
        key = view.keys[0]
        asked = pd.DataFrame({SEQ_COLUMN: rows["seq"].to_numpy(), key: rows[key].to_pandas()})
        asked["row"] = np.arange(len(asked))
        kept = log.to_pandas().sort_values(SEQ_COLUMN)
        kept["place"] = np.arange(len(kept))
        joined = pd.merge_asof(
            asked.sort_values(SEQ_COLUMN),
            kept[[SEQ_COLUMN, key, "place"]],
            on=SEQ_COLUMN,
            by=key,
            allow_exact_matches=False,
        ).sort_values("row")
        values = np.vstack([places(stack(kept[view.name], view.width)), np.full(view.size, np.nan)])
        at = joined["place"].fillna(-1).to_numpy().astype(np.int64)
        columns.append(values[at])
    return np.hstack(columns)
