"""Quality and cost by period and model, once labels have come.

Drift only suggests that costs will rise; this measures the cost of the champion, and of the
challenger beside it. A period is computed once, when all of its labels are in, and stored in the
lake. A sequential test compares the champion's mean cost with its own first periods.
"""

import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
from prometheus_client import Gauge
from sklearn.metrics import average_precision_score

from monitoring.statistics.page_hinkley import PageHinkley
from services.platform.evaluation.cost import CostModel
from services.platform.evaluation.cost import Outcomes as OutcomeCodes
from services.platform.evaluation.metrics import calibration_error
from services.platform.memory import release_memory
from services.platform.models.names import CHALLENGER, CHAMPION, label_version
from services.platform.storage.lake import Lake

# A champion's first periods are the baseline of its cost; fewer would be chance.
BASELINE_PERIODS = 7
# Periods of fewer decisions are left out.
MIN_DECISIONS = 50
COST = "cost"
COST_DETECTOR = "page_hinkley_cost"

_LABELS = ["model", "role"]
PRECISION = Gauge("quality_precision_ratio", "Of what was stopped, share that was bad", _LABELS)
RECALL = Gauge("quality_recall_ratio", "Of what was bad, share that was stopped", _LABELS)
AVERAGE_PRECISION = Gauge("quality_average_precision_ratio", "Average precision", _LABELS)
CALIBRATION_ERROR = Gauge("quality_calibration_error_ratio", "Expected calibration error", _LABELS)
COST_PER_HOUR = Gauge("quality_cost_per_hour_eur", "Cost of an hour of event time", _LABELS)

QUALITY_SCHEMA = pa.schema(
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
        # Null in rows from before feeds.
        pa.field("feed", pa.string()),
    ]
)  # fmt: skip


def quality_table(design: str) -> str:
    """The lake's table of a design's periods."""
    return f"{design}/quality"


@dataclass(frozen=True)
class Outcomes:
    """Decisions whose outcome is final.

    Attributes:
        rows: Columns `event_time`, `feed` (empty for the default feed), `model`
            ("candidate:version"), `role`, `score`, `stopped` (an outcome of the cost model: 0 is
            not stopped), `positive`, `amount` (minor units), and `weight` where a decision stands
            for more than itself.
        complete_until: By feed, the event time (seconds) before which its outcomes are complete.
        cost_model: The present one; None: the design's.
    """

    rows: pd.DataFrame
    complete_until: Mapping[str, float]
    cost_model: CostModel | None = None


# Given by feed an event time, seconds, returns the decisions since then, of other feeds all; None
# if there are none yet. Each call asks for the same times or later ones. Of very many decisions it
# may return a share, weighted. OSError: S3 does not answer.
OutcomeReader = Callable[[Mapping[str, float]], Outcomes | None]


@dataclass(frozen=True)
class QualitySpec:
    """What a design brings.

    Attributes:
        design: Its name.
        outcome_reader: Makes an outcome reader of a lake.
        cost_model: What decisions cost.
        span_s: Length of a period, seconds of event time.
    """

    design: str
    outcome_reader: Callable[[Lake], OutcomeReader]
    cost_model: CostModel
    span_s: float


@dataclass(frozen=True)
class Period:
    """One period of one model.

    Attributes:
        begin: Event time, seconds.
        model: "candidate:version".
        role: `CHAMPION` or `CHALLENGER`.
        decisions: With a final outcome.
        positives: Decisions whose label is positive.
        precision: Of what was stopped, share that was positive; NaN where nothing was.
        recall: Of what was positive, share that was stopped; NaN where nothing was.
        average_precision: Of the scores, 0..1; NaN where nothing was positive.
        calibration_error: Expected calibration error of the scores, 0..1.
        cost_per_hour_eur: Cost of an hour of event time.
        mean_cost_eur: Cost of a decision.
        feed: The decisions' feed, empty for the default one.
    """

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
    feed: str = ""

    def seq(self, span_s: float) -> int:
        """Its number in the table, unique by period, version, role and feed."""
        version = label_version(self.model)
        number = (round(self.begin / span_s) * 100_000 + version) * 2 + (self.role == CHALLENGER)
        return number + (zlib.crc32(self.feed.encode()) % 2**20 * 2**42 if self.feed else 0)


def periods(outcomes: Outcomes, cost_model: CostModel, span_s: float) -> list[Period]:
    """Closed periods, in order: those that lie within the time of complete outcomes.

    Args:
        outcomes: As `OutcomeReader` returns them.
        cost_model: What decisions cost.
        span_s: Length of a period, seconds.
    """
    rows = outcomes.rows
    number = (_seconds(rows["event_time"]) // span_s).astype(np.int64)
    complete = rows["feed"].map(outcomes.complete_until).astype(float)
    closed = rows[(number + 1) * span_s <= complete]
    groups = closed.groupby([number[closed.index], "role", "model", "feed"])
    return [
        _period(of, float(number[of.index[0]]) * span_s, cost_model, span_s)
        for _, of in groups
        if len(of) >= MIN_DECISIONS
    ]


def _seconds(times: "pd.Series[pd.Timestamp]") -> "pd.Series[float]":
    return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)


def _period(rows: pd.DataFrame, begin: float, cost_model: CostModel, span_s: float) -> Period:
    outcome, positive = rows["stopped"].to_numpy(np.int64), rows["positive"].to_numpy(bool)
    stopped = outcome != 0
    score, amount = rows["score"].to_numpy(float), rows["amount"].to_numpy(float)
    weight = rows["weight"].to_numpy(float) if "weight" in rows else np.ones(len(rows))
    ap = (
        float(average_precision_score(positive, score, sample_weight=weight))
        if positive.any()
        else np.nan
    )
    hits = float(weight[stopped & positive].sum())
    cost = float((cost_model.costs(outcome, positive, amount) * weight).sum()) / 100
    return Period(
        begin=begin,
        model=str(rows["model"].iloc[0]),
        role=str(rows["role"].iloc[0]),
        decisions=len(rows),
        positives=int(positive.sum()),
        precision=_share(hits, float(weight[stopped].sum())),
        recall=_share(hits, float(weight[positive].sum())),
        average_precision=ap,
        calibration_error=calibration_error(score, positive, weight=weight),
        cost_per_hour_eur=cost / (span_s / 3600),
        mean_cost_eur=cost / float(weight.sum()),
        feed=str(rows["feed"].iloc[0]),
    )  # fmt: skip


def _share(part: float, whole: float) -> float:
    """A share; NaN of nothing.

    >>> _share(1.0, 4.0), _share(0.0, 0.0)
    (0.25, nan)
    """
    return part / whole if whole else np.nan


class CostMonitor:
    """Watches the champion's cost, period by period; a new champion has its own baseline."""

    def __init__(self) -> None:
        self._model = ""
        self._baseline: list[float] = []
        self._test: PageHinkley | None = None

    def update(self, period: Period) -> bool:
        """Take the next period; true where the rise of the cost is significant."""
        if period.role != CHAMPION:
            return False
        # The logarithm of cents, as in the drift benchmark: one large fraud is no trend.
        value = float(np.log1p(100 * period.mean_cost_eur))
        if period.model != self._model:
            self._model, self._baseline, self._test = period.model, [], None
        if self._test is None:
            self._baseline.append(value)
            if len(self._baseline) == BASELINE_PERIODS:
                self._test = PageHinkley.of_cost(self._baseline)
            return False
        return self._test.update(value)


class QualityTracker:
    """The periods of one design, those in the lake and new ones; it reads the lake alone.

    Attributes:
        design: Its name.
        alarms: Periods at which the cost monitor raised an alarm, to be taken from the left.
    """

    def __init__(self, lake: Lake, spec: QualitySpec) -> None:
        self._lake = lake
        self._spec = spec
        self._read_outcomes = spec.outcome_reader(lake)
        self._periods: dict[int, Period] = {}
        self._cost_monitors: dict[str, CostMonitor] = {}
        self._loaded = False
        self.design = spec.design
        self.alarms: deque[Period] = deque()

    def update(self) -> list[Period]:
        """Compute, store and show on /metrics the periods that closed since the last call.

        Raises:
            OSError: S3 does not answer; call again.
        """
        if not self._loaded:
            for period in self._stored_periods():
                self._add(period)
            self._loaded = True
        new = [p for p in self._closed_periods() if p.seq(self._spec.span_s) not in self._periods]
        for period in new:
            self._write(period)
            if self._add(period):
                self.alarms.append(period)
        self._show()
        # Reading a file takes many times the memory of what is kept.
        release_memory()
        return new

    def _add(self, period: Period) -> bool:
        self._periods[period.seq(self._spec.span_s)] = period
        return self._cost_monitors.setdefault(period.feed, CostMonitor()).update(period)

    def _closed_periods(self) -> Iterator[Period]:
        # Labels of a challenger may still come for the champion's last period.
        since: dict[str, float] = {}
        for period in self._periods.values():
            since[period.feed] = max(since.get(period.feed, 0.0), period.begin)
        outcomes = self._read_outcomes(since)
        if outcomes is not None and len(outcomes.rows):
            cost_model = outcomes.cost_model or self._spec.cost_model
            yield from periods(outcomes, cost_model, self._spec.span_s)

    def _stored_periods(self) -> Iterator[Period]:
        # With the schema: files from before the column `feed` have nulls there.
        rows = self._lake.read(quality_table(self._spec.design), schema=QUALITY_SCHEMA)
        for row in [] if rows is None else rows.to_pylist():
            begin = row.pop("event_time").timestamp()
            del row["seq"]
            yield Period(begin=begin, **{**row, "feed": row["feed"] or ""})

    def _write(self, period: Period) -> None:
        fields = asdict(period)
        at, seq = datetime.fromtimestamp(fields.pop("begin"), UTC), period.seq(self._spec.span_s)
        table = pa.Table.from_pylist(
            [{"seq": seq, "event_time": at, **fields}], schema=QUALITY_SCHEMA
        )
        self._lake.write(quality_table(self._spec.design), table, f"{seq:016d}")

    def _show(self) -> None:
        """The newest period of each role, of the feed with the most decisions.

        A figure that is not defined there is left out.
        """
        for gauge in (PRECISION, RECALL, AVERAGE_PRECISION, CALIBRATION_ERROR, COST_PER_HOUR):
            gauge.clear()
        for role in (CHAMPION, CHALLENGER):
            of_role = [p for p in self._periods.values() if p.role == role]
            if not of_role:
                continue
            largest = _largest_feed(of_role)
            newest = max((p for p in of_role if p.feed == largest), key=lambda p: p.begin)
            for gauge, value in (
                (PRECISION, newest.precision),
                (RECALL, newest.recall),
                (AVERAGE_PRECISION, newest.average_precision),
                (CALIBRATION_ERROR, newest.calibration_error),
                (COST_PER_HOUR, newest.cost_per_hour_eur),
            ):
                if not np.isnan(value):
                    gauge.labels(newest.model, role).set(value)


def _largest_feed(periods: list[Period]) -> str:
    decisions: Counter[str] = Counter()
    for period in periods:
        decisions[period.feed] += period.decisions
    return decisions.most_common(1)[0][0]


SHADOW_COLUMNS = ["decision_id", "model", "score", "threshold"]


def with_challenger(
    outcomes: pd.DataFrame, shadow: pa.Table | None, by: str, cost_model: CostModel | None = None
) -> pd.DataFrame:
    """Decisions with outcomes and, below them, the same as the challenger would have decided.

    Args:
        outcomes: Columns of `OutcomeReader`, and `by`.
        shadow: Rows of shadow mode, `SHADOW_COLUMNS`; None for none.
        by: Column of `outcomes` that matches shadow mode's `decision_id`.
        cost_model: Decides on the challenger's scores; None: its threshold does.
    """
    if shadow is None or not len(shadow):
        return outcomes
    scores = shadow.select(SHADOW_COLUMNS).to_pandas().drop_duplicates(["decision_id", "model"])
    plain = outcomes.drop(columns=["model", "score", "stopped", "role"])
    challengers = plain.merge(scores, left_on=by, right_on="decision_id", suffixes=("", "_shadow"))
    stopped: OutcomeCodes = (challengers["score"] >= challengers["threshold"]).to_numpy(bool)
    if cost_model is not None:
        score, amount = (challengers[c].to_numpy(np.float64) for c in ("score", "amount"))
        stopped = cost_model.outcomes(score, 0.0, amount)
    challengers = challengers.assign(role=CHALLENGER, stopped=stopped)
    return pd.concat([outcomes, challengers[outcomes.columns]], ignore_index=True)
