"""Every party's place in the graph, written every night: into the lake's log and the online store.

There is one encoder at a time. Places are features, and features are shared: a second encoder
would mean other things by the same columns (docs/adr/0006). It is trained when the first
candidate asks for places, and again only when `models/fraud/encoder.pt` is removed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import yaml
from redis import Redis

from features.online import OnlineTable
from features.spec import DAY, SEQ, TIME, VALUES, Booleans, Floats, Integers, Key
from features.state_log import row_table
from services.fraud.features import encoder as encoders
from services.fraud.features.encoder import Encoder, Lessons
from services.fraud.features.graph import Ledger, snapshot
from services.fraud.features.states import GRAPH, GRAPH_SIZE, PLACES
from services.fraud.ingestion.tables import LABELS_TABLE, STATE_LOG, TRANSACTIONS_TABLE
from services.fraud.problem import CONF
from services.platform.progress import Bar, Step
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.torch import training as neural

ENCODER = "models/fraud/encoder.pt"
_CHUNK = 20_000


@dataclass(frozen=True)
class Night:
    """What one night places.

    Attributes:
        at: Event time, seconds. seq: Sequence of the last transaction it knew.
        values: By view name, (K, GRAPH_SIZE), NaN for parties without any edge.
    """

    at: float
    seq: int
    values: Mapping[str, Floats]


def read_ledger(lake: Lake) -> Ledger:
    """All transactions and chargebacks of the lake."""
    transactions, labels = lake.read(TRANSACTIONS_TABLE), lake.read(LABELS_TABLE)
    if transactions is None or labels is None:
        raise ValueError("the lake holds no labelled transactions yet")
    return Ledger.of(transactions, labels)


def parameters() -> dict[str, object]:
    """The encoder's hyperparameters."""
    return dict(yaml.safe_load((CONF / "encoder.yaml").read_text()))


def midnights(begin: float, end: float) -> list[float]:
    """Midnights within [begin, end), UTC."""
    first = np.ceil(begin / DAY)
    return [float(day) * DAY for day in np.arange(first, np.ceil(end / DAY))]


def place_nights(
    encoder: Encoder, ledger: Ledger, nights: Sequence[float], step: Step
) -> list[Night]:
    """Place every party on each of some nights."""
    placed = []
    for number, at in enumerate(nights, start=1):
        graph = snapshot(ledger, at)
        found = encoders.place(encoder, graph)
        placed.append(Night(at, graph.seq, {view.name: found[view.keys[0]] for view in GRAPH}))
        step(number, len(nights))
    return placed


def columns(ledger: Ledger, nights: Iterable[Night]) -> Floats:
    """(N, len(PLACES)): each transaction's parties as the last night before it placed them."""
    out = np.full((len(ledger.seq), len(PLACES)), np.nan)
    for night in nights:
        rows = ledger.within(night.at, night.at + DAY)
        for number, view in enumerate(GRAPH):
            codes = ledger.codes[view.keys[0]][rows]
            values = np.where(codes[:, None] >= 0, night.values[view.name][codes], np.nan)
            out[rows, number * GRAPH_SIZE : (number + 1) * GRAPH_SIZE] = values
    return out


def cold(ledger: Ledger, nights: Iterable[Night]) -> Booleans:
    """(N,) whether some party of a transaction had no place: a cold start."""
    found = columns(ledger, nights).reshape(len(ledger.seq), len(GRAPH), GRAPH_SIZE)
    absent = np.isnan(found[:, :, 0])
    there = np.column_stack([ledger.codes[view.keys[0]] >= 0 for view in GRAPH])
    return np.asarray((absent & there).any(axis=1))


def ensure(
    settings: Settings,
    lake: Lake,
    days: tuple[float, float],
    known: tuple[Integers, Booleans, Floats],
    seed: int,
    bar: Bar,
) -> None:
    """Train the encoder and write the nights so far, where that was not done.

    Args:
        days: Event time (seconds) of the days to learn from, [begin, end).
        known: (sequences, whether fraud, tabular features) of the transactions of these days.
    """
    if lake.exists(ENCODER):
        return
    ledger = read_ledger(lake)
    begin, end = days
    lessons = Lessons.of(ledger, *known)
    with bar("training the graph encoder") as step:
        made = encoders.train(ledger, lessons, midnights(begin, end), parameters(), seed, step)
    with bar("placing everybody, night by night") as step:
        nights = place_nights(made, ledger, midnights(begin, ledger.time.max() + 1.0), step)
    with bar("writing the places") as step:
        _write(settings, lake, ledger, nights, step)
    lake.put(ENCODER, neural.saved(made))


def refresh(settings: Settings, lake: Lake, bar: Bar) -> int:
    """Place everybody by what is known now; 0 where no candidate asked for places yet.

    Returns the number of parties placed.
    """
    if not lake.exists(ENCODER):
        return 0
    made = Encoder(parameters())
    neural.restore(made, lake.get(ENCODER))
    ledger = read_ledger(lake)
    with bar("placing everybody in the graph") as step:
        [night] = place_nights(made, ledger, [float(ledger.time.max()) + 1e-6], step)
    with bar("writing the places") as step:
        return _write(settings, lake, ledger, [night], step)


def _write(
    settings: Settings, lake: Lake, ledger: Ledger, nights: Sequence[Night], step: Step
) -> int:
    """Log some nights, and put the last of them online. Returns the parties online."""
    for number, night in enumerate(nights, start=1):
        for view in GRAPH:
            keys, rows = _rows(ledger, night, view.name, view.keys[0])
            table = row_table(view, keys, rows)
            lake.write(f"{STATE_LOG}/{view.name}", table, f"{night.seq:012d}", partition=False)
        step(number, len(nights) + 1)
    count = 0
    with Redis.from_url(settings.redis) as redis:
        for view in GRAPH:
            keys, rows = _rows(ledger, nights[-1], view.name, view.keys[0])
            for begin in range(0, len(keys), _CHUNK):
                part = slice(begin, begin + _CHUNK)
                OnlineTable(redis, view).store(keys[part], rows[part])
            count += len(keys)
    step(len(nights) + 1, len(nights) + 1)
    return count


def _rows(ledger: Ledger, night: Night, name: str, entity: str) -> tuple[list[Key], Floats]:
    """The parties a night placed, and their rows."""
    values = night.values[name]
    placed = np.nonzero(~np.isnan(values[:, 0]))[0]
    rows = np.empty((len(placed), VALUES + GRAPH_SIZE))
    # Seen nothing before: sequence 1 stands for "some", as 0 would say it was never written.
    rows[:, SEQ], rows[:, TIME] = max(night.seq, 1), night.at
    rows[:, VALUES:] = values[placed]
    return [(str(key),) for key in ledger.names[entity][placed]], rows


def log_tables(lake: Lake) -> dict[str, pa.Table | None]:
    """By view name, everything the nights logged; None before the first night."""
    # Not `Lake.read`, which keeps one row a sequence: a night is one sequence for everybody.
    files = {view.name: lake.files(f"{STATE_LOG}/{view.name}") for view in GRAPH}
    return {
        name: ds.dataset(found, filesystem=lake.filesystem).to_table() if found else None
        for name, found in files.items()
    }
