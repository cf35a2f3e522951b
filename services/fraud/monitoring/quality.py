"""Decisions joined with their outcomes, for the monitor of quality and cost.

They are read a range of their stream at a time, and only once their dispute window has closed. In
memory are a range, at most about `MAX_ROWS` decisions, and the event times of all (see
`watermark.FeedTimes`).
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.spec import DAY
from monitoring.quality import SHADOW_COLUMNS, Outcomes, QualitySpec, with_challenger
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.label_weights import DECIDED_BY
from services.fraud.ingestion.outcomes import settled_until, with_outcomes
from services.fraud.ingestion.tables import (
    DECISION_SCHEMA,
    DECISIONS_TABLE,
    LABELS_TABLE,
    NOT_DEGRADED,
)
from services.fraud.ingestion.watermark import DEFAULT_FEED, FeedTimes, feed_codes, per_feed
from services.fraud.problem import DECLINE, DESIGN, OUTCOMES, CostModel
from services.fraud.review.policy import usual_costs
from services.platform.evaluation.sampling import draw
from services.platform.models.names import CHAMPION
from services.platform.retraining.shadow import SHADOW_SCHEMA, shadow_table
from services.platform.storage.lake import Lake
from services.platform.storage.sequences import SequenceReader
from services.platform.types import Floats

# Of more decisions a share is read, drawn by id; a row weighs one over it.
MAX_ROWS = 300_000
_RANGE = 200_000
_PURPOSE = "quality"
_COLUMNS = [
    "event_time", "decision_id", "transaction_id", "model", "score", "decision", "amount_minor",
    "feed", "costs", *DECIDED_BY,
]  # fmt: skip
# By feed, the event times [begin, end), seconds, of the decisions that are wanted.
_Windows = Mapping[str, tuple[float, float]]


class OutcomeReader:
    """Decisions whose dispute window has closed; the challenger's scores come from shadow mode.

    Decisions taken without the online store are left out: the champion did not take them, and an
    outage is no decay of it.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._times = FeedTimes()
        self._last_seq = 0
        self._days: dict[str, tuple[float, float]] = {}
        self._label_files: list[str] = []
        self._outcomes: Outcomes | None = None

    def __call__(self, since: Mapping[str, float]) -> Outcomes | None:
        """Those since an event time by feed, seconds: see `monitoring.quality.OutcomeReader`.

        They are read again when another day of a feed has closed, or, while none has a label, when
        labels have come.
        """
        clocks = self._add_times().clocks()
        until = {name: settled_until(clock) for name, clock in clocks.items()}
        windows = {name: (since.get(name, 0.0), end) for name, end in until.items()}
        days = {name: (begin, end // DAY) for name, (begin, end) in windows.items()}
        labels_came = self._outcomes is None and self._labels_came()
        if labels_came or days != self._days:
            self._outcomes, self._days = self._read(windows, until), days
        return self._outcomes

    def _labels_came(self) -> bool:
        before, self._label_files = self._label_files, self._lake.files(LABELS_TABLE)
        return self._label_files != before

    def _add_times(self) -> FeedTimes:
        """The event times of all decisions, with those that are new."""
        columns = ["event_time", "feed"]
        reader = SequenceReader(self._lake, DECISIONS_TABLE, columns, DECISION_SCHEMA, NOT_DEGRADED)
        for part in reader.parts(_RANGE, self._last_seq):
            self._times.add(part)
            self._last_seq = int(part["seq"][-1].as_py())
        return self._times

    def _read(self, windows: _Windows, until: Mapping[str, float]) -> Outcomes | None:
        total = self._times.counts(windows)
        if not total:
            return None
        rows, counted = self._closed(windows, min(MAX_ROWS / total, 1.0))
        settled, _, _ = with_outcomes(self._lake, rows, counted)
        if not len(settled):
            return None
        cost_model = usual_costs(settled["costs"])
        champion = _of_champion(settled)
        shadow = self._shadow(champion["decision_id"], _first(windows))
        return Outcomes(
            with_challenger(champion, shadow, "decision_id", cost_model), until, cost_model
        )

    def _closed(self, windows: _Windows, share: float) -> tuple[pa.Table, Floats]:
        """A share of the decisions in their feeds' windows, and (N,) what each stands for."""
        parts = [DECISION_SCHEMA.empty_table().select(["seq", *_COLUMNS])]
        for part in self._between(windows):
            codes, names = feed_codes(part)
            begin, end = (
                per_feed({name: one[side] for name, one in windows.items()}, names, np.nan)[codes]
                for side in (0, 1)
            )
            time = event_times(part)
            within = part.filter(pa.array((time >= begin) & (time < end)))
            if share < 1.0:
                ids = within["decision_id"].to_pylist()
                drawn = [draw(one, _PURPOSE) < share for one in ids]
                within = within.filter(pa.array(drawn, pa.bool_()))
            parts.append(within.select(parts[0].column_names))
        rows = pa.concat_tables(parts)
        return rows, np.full(len(rows), 1.0 / share)

    def _between(self, windows: _Windows) -> Iterator[pa.Table]:
        last = max(end for _, end in windows.values())
        reader = SequenceReader(
            self._lake,
            DECISIONS_TABLE,
            _COLUMNS,
            DECISION_SCHEMA,
            NOT_DEGRADED,
            _first(windows),
            last,
        )
        yield from reader.parts(_RANGE)

    def _shadow(self, decisions: "pd.Series[str]", since: float) -> pa.Table | None:
        """The challengers' scores of some decisions."""
        reader = SequenceReader(
            self._lake, shadow_table(DESIGN), SHADOW_COLUMNS, SHADOW_SCHEMA, since=since
        )
        wanted = pa.array(decisions)
        found = [
            part.filter(pc.is_in(part["decision_id"], wanted)) for part in reader.parts(_RANGE)
        ]
        return pa.concat_tables(found) if found else None


def _first(windows: _Windows) -> float:
    """The begin of the first window, less a second: the windows are exact."""
    return max(
        min((begin for begin, end in windows.values() if end > begin), default=0.0) - 1.0, 0.0
    )


def _of_champion(settled: pa.Table) -> pd.DataFrame:
    """Settled decisions as `Outcomes` has them."""
    made = settled.drop_columns("costs").to_pandas()
    made = made.drop_duplicates("decision_id").drop(columns="seq")
    made = made.rename(columns={"fraud": "positive", "amount_minor": "amount"})
    return made.assign(
        role=CHAMPION,
        # What the champion's policy does, of which the control group is a sample.
        stopped=made["decision"].map(OUTCOMES.index).mask(made["control"].eq(True), DECLINE),
        feed=made["feed"].astype(object).fillna(DEFAULT_FEED),
    ).reset_index(drop=True)


QUALITY_SPEC = QualitySpec(DESIGN, OutcomeReader, CostModel(), DAY)
