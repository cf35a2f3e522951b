"""What the labels say once they have come: quality and cost by period and model.

Drift is a guess at tomorrow's cost; this is yesterday's bill, champion beside challenger. A period
is reckoned once, when all of its labels are in, and kept in the lake. A sequential test watches the
champion's mean cost, against its own first periods.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
from prometheus_client import Gauge
from sklearn.metrics import average_precision_score

from monitoring.statistics.page_hinkley import Sequential
from services.platform.evaluation.cost import Kpi
from services.platform.evaluation.metrics import calibration_error
from services.platform.models.served_model import CHALLENGER, CHAMPION
from services.platform.storage.lake import Lake

# A champion's first periods say what its cost is like; fewer would be luck.
LEARNT = 7
LEAST = 50
COST = "cost"
DETECTOR = "page_hinkley_cost"

_LABELS = ["model", "role"]
PRECISION = Gauge("quality_precision_ratio", "Of what was stopped, share that was bad", _LABELS)
RECALL = Gauge("quality_recall_ratio", "Of what was bad, share that was stopped", _LABELS)
AP = Gauge("quality_average_precision_ratio", "Average precision", _LABELS)
ECE = Gauge("quality_calibration_error_ratio", "Expected calibration error", _LABELS)
COST_PER_HOUR = Gauge("quality_cost_per_hour_eur", "Cost of an hour of event time", _LABELS)

TABLE = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("decisions", pa.int64(), nullable=False),
        pa.field("positives", pa.int64(), nullable=False),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in ("precision", "recall", "average_precision", "calibration_error",
                         "cost_per_hour_eur", "mean_cost_eur")
        ),
    ]
)  # fmt: skip


def table_of(design: str) -> str:
    """The lake's table of a design's periods."""
    return f"{design}/quality"


Judged = Callable[[float], pd.DataFrame | None]


@dataclass(frozen=True)
class Bills:
    """What a design brings.

    Attributes:
        judged: Makes of a lake who is asked, again and again, for the decisions since an event
            time (seconds, each time the same or later) whose outcome is known for good: columns
            `event_time`, `model` ("candidate:version"), `role`, `score`, `stopped`, `positive`,
            `amount` (minor units). None where there are none yet. OSError: S3 does not answer.
        kpi: What they cost. span_s: Length of a period, seconds of event time.
    """

    design: str
    judged: Callable[[Lake], Judged]
    kpi: Kpi
    span_s: float


@dataclass(frozen=True)
class Period:
    """One period of one model. begin: Event time, seconds."""

    begin: float
    model: str
    role: str
    decisions: int
    positives: int
    precision: float
    recall: float
    average_precision: float
    calibration_error: float
    cost_per_hour_eur: float
    mean_cost_eur: float

    def seq(self, span_s: float) -> int:
        """Its number in the table: one a period, version and role."""
        version = int(self.model.rpartition(":")[2])
        return (round(self.begin / span_s) * 100_000 + version) * 2 + (self.role == CHALLENGER)


def periods(judged: pd.DataFrame, kpi: Kpi, span_s: float) -> list[Period]:
    """The closed periods of judged decisions, in order; those of very few are left out."""
    number = (_seconds(judged["event_time"]) // span_s).astype(np.int64)
    closed = judged[number < number.max()] if len(judged) else judged
    groups = closed.groupby([number[closed.index], closed["role"], closed["model"]])
    return [
        _period(rows, float(number[rows.index[0]]) * span_s, kpi, span_s)
        for _, rows in groups
        if len(rows) >= LEAST
    ]


def _seconds(times: "pd.Series[pd.Timestamp]") -> "pd.Series[float]":
    return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)


def _period(rows: pd.DataFrame, begin: float, kpi: Kpi, span_s: float) -> Period:
    stopped, positive = rows["stopped"].to_numpy(bool), rows["positive"].to_numpy(bool)
    score, amount = rows["score"].to_numpy(float), rows["amount"].to_numpy(float)
    ap = float(average_precision_score(positive, score)) if positive.any() else 0.0
    hits, cost = int((stopped & positive).sum()), kpi.total(stopped, positive, amount) / 100
    return Period(
        begin=begin,
        model=str(rows["model"].iloc[0]),
        role=str(rows["role"].iloc[0]),
        decisions=len(rows),
        positives=int(positive.sum()),
        precision=hits / max(int(stopped.sum()), 1),
        recall=hits / max(int(positive.sum()), 1),
        average_precision=ap,
        calibration_error=calibration_error(score, positive),
        cost_per_hour_eur=cost / (span_s / 3600),
        mean_cost_eur=cost / len(rows),
    )  # fmt: skip


class CostWatch:
    """Watches the champion's cost, period by period; a new champion is learnt anew."""

    def __init__(self) -> None:
        self._model = ""
        self._first: list[float] = []
        self._test: Sequential | None = None

    def update(self, period: Period) -> bool:
        """Take the next period; true where the cost has certainly risen."""
        if period.role != CHAMPION:
            return False
        # The logarithm, of cents as the scorecard takes it: one large fraud is no trend.
        value = float(np.log1p(100 * period.mean_cost_eur))
        if period.model != self._model:
            self._model, self._first, self._test = period.model, [], None
        if self._test is None:
            self._first.append(value)
            if len(self._first) == LEARNT:
                self._test = Sequential.of_cost(self._first)
            return False
        return self._test.update(value)


class Ledger:
    """The periods of one design: those in the lake, and what is new. It asks the lake alone."""

    def __init__(self, lake: Lake, bills: Bills) -> None:
        self._lake = lake
        self._bills = bills
        self._judged = bills.judged(lake)
        self._known: dict[int, Period] = {}
        self._watch = CostWatch()
        self._loaded = False
        self.design = bills.design
        self.alarms: deque[Period] = deque()

    def look(self) -> list[Period]:
        """Reckon what has closed since the last look, keep it, and show it on /metrics.

        Raises:
            OSError: S3 does not answer; look again.
        """
        if not self._loaded:
            for period in self._read():
                self._take(period)
            self._loaded = True
        fresh = [p for p in self._closed() if p.seq(self._bills.span_s) not in self._known]
        for period in fresh:
            self._keep(period)
            if self._take(period):
                self.alarms.append(period)
        self._show()
        # Reading a file takes many times what is kept of it; the pool would hold on to that.
        pa.default_memory_pool().release_unused()
        return fresh

    def _take(self, period: Period) -> bool:
        self._known[period.seq(self._bills.span_s)] = period
        return self._watch.update(period)

    def _closed(self) -> Iterator[Period]:
        # A challenger's labels may still come for the period that the champion's closed.
        since = max((p.begin for p in self._known.values()), default=0.0)
        judged = self._judged(since)
        if judged is not None and len(judged):
            yield from periods(judged.reset_index(drop=True), self._bills.kpi, self._bills.span_s)

    def _read(self) -> Iterator[Period]:
        rows = self._lake.read(table_of(self._bills.design))
        for row in [] if rows is None else rows.to_pylist():
            begin = row.pop("event_time").timestamp()
            del row["seq"]
            yield Period(begin=begin, **row)

    def _keep(self, period: Period) -> None:
        fields = asdict(period)
        at, seq = datetime.fromtimestamp(fields.pop("begin"), UTC), period.seq(self._bills.span_s)
        table = pa.Table.from_pylist([{"seq": seq, "event_time": at, **fields}], schema=TABLE)
        self._lake.write(table_of(self._bills.design), table, f"{seq:016d}")

    def _show(self) -> None:
        """The newest period of each role."""
        for gauge in (PRECISION, RECALL, AP, ECE, COST_PER_HOUR):
            gauge.clear()
        for role in (CHAMPION, CHALLENGER):
            of_role = [p for p in self._known.values() if p.role == role]
            if not of_role:
                continue
            newest = max(of_role, key=lambda p: p.begin)
            PRECISION.labels(newest.model, role).set(newest.precision)
            RECALL.labels(newest.model, role).set(newest.recall)
            AP.labels(newest.model, role).set(newest.average_precision)
            ECE.labels(newest.model, role).set(newest.calibration_error)
            COST_PER_HOUR.labels(newest.model, role).set(newest.cost_per_hour_eur)


SHADOWED = ["decision_id", "model", "score", "threshold"]


def with_challenger(judged: pd.DataFrame, shadow: pa.Table | None, by: str) -> pd.DataFrame:
    """Judged decisions and, below them, the same as the challenger would have decided.

    Args:
        by: Column of `judged` that shadow mode's `decision_id` names.
    """
    if shadow is None or not len(shadow):
        return judged
    scores = shadow.select(SHADOWED).to_pandas().drop_duplicates(["decision_id", "model"])
    plain = judged.drop(columns=["model", "score", "stopped", "role"])
    theirs = plain.merge(scores, left_on=by, right_on="decision_id", suffixes=("", "_shadow"))
    theirs = theirs.assign(role=CHALLENGER, stopped=theirs["score"] >= theirs["threshold"])
    return pd.concat([judged, theirs[judged.columns]], ignore_index=True)
