"""The mix of first reasons as a monitored column: why transactions are declined, against training.

A model may keep its scores while their causes change: a new kind of fraud, or a broken feed that
makes every device look new. A day has few declines, so a window is `WINDOW` of them; the distance
is their population stability index. Windows are stored beside the drift monitor's, in the table
`fraud/drift-reasons`.
"""

from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from nats.js import JetStreamContext
from prometheus_client import Gauge

from monitoring.alerts import Alert, raise_alert
from monitoring.drift_table import REASONS, window_row, write_window
from monitoring.statistics.psi import psi
from services.fraud.ingestion.events import event_time_of
from services.fraud.problem import DESIGN
from services.platform.storage.lake import Lake

WINDOW = 200
COLUMN = "first_reason"
# Above it a population has changed, by the usual reading of the index (Siddiqi, see `psi`); clean
# windows stay below it, and a feed that loses devices does not (docs/reasons.md).
MOVED = 0.25
MIX_DISTANCE = Gauge(
    "reasons_mix_distance",
    f"PSI of the first reasons of {WINDOW} declines against those of training, in nats",
)


class ReasonMix:
    """Counts the first reasons of declines, a window of one model at a time.

    Attributes:
        closed: Rows of the windows that are full and not yet published, oldest first.
    """

    def __init__(self) -> None:
        self.closed: deque[dict[str, Any]] = deque()
        self._groups: list[str] = []
        self._model = ""
        self._begin = ""
        self._last_seq = 0

    def add(
        self, seq: int, event: Mapping[str, Any], group: str, reference: Mapping[str, float]
    ) -> None:
        """Count a decline by its first reason; one that comes again counts once.

        A decline of another model begins a window: models decline for different reasons.

        Args:
            seq: Of its event.
            event: The decision.
            group: The feature group of its first reason.
            reference: By feature group, how often it came first among declines of training; empty
                for a model that does not know, whose declines are not counted.
        """
        if seq <= self._last_seq or not sum(reference.values()):
            return
        self._last_seq = seq
        if event["model"] != self._model:
            self._model = event["model"]
            self._groups.clear()
        if not self._groups:
            self._begin = event["transaction"]["event_time"]
        self._groups.append(group)
        if len(self._groups) == WINDOW:
            self._close(seq, reference)

    def _close(self, seq: int, reference: Mapping[str, float]) -> None:
        counts = Counter(self._groups)
        names = sorted({*counts, *reference})
        expected = np.array([reference.get(n, 0.0) for n in names])
        distance = psi(expected, np.array([float(counts[n]) for n in names]))
        MIX_DISTANCE.set(distance)
        begin = event_time_of(self._begin)
        alarms = [("psi", COLUMN)] if distance > MOVED else []
        distances = {"psi": np.array([distance])}
        row = window_row(seq, begin, self._model, WINDOW, (COLUMN,), distances, alarms)
        self.closed.append(row)
        self._groups.clear()


def write_mix(lake: Lake, row: Mapping[str, Any]) -> None:
    """Write a closed window to the lake. OSError if S3 did not take it."""
    write_window(lake, DESIGN, row, REASONS)


async def alert_of_mix(js: JetStreamContext, row: Mapping[str, Any]) -> None:
    """Raise an alert if a closed window is far from training.

    Raises:
        nats.errors.Error: the stream did not take it.
    """
    if not row["alarms"]:
        return
    alert = Alert(
        at=datetime.now(UTC),
        window_begin=row["event_time"],
        design=DESIGN,
        kind=REASONS,
        model=row["model"],
        said=f"the last {WINDOW} declines have other first reasons than in training: "
        f"PSI {row['psi'][0]:.2f}",
        findings={"psi": [COLUMN]},
    )
    await raise_alert(js, alert)
