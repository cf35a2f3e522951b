"""The mix of first reasons as a monitored column: why transactions are declined, against training.

A model may keep its scores while their causes change: a new kind of fraud, or a broken feed that
makes every device look new. The distance is the population stability index of the last declines.
"""

from collections import Counter, deque
from collections.abc import Mapping

import numpy as np
from prometheus_client import Gauge

from monitoring.statistics.psi import psi

WINDOW = 200
MIX_DISTANCE = Gauge(
    "reasons_mix_distance",
    f"PSI of the first reasons of the last {WINDOW} declines against those of training, in nats",
)


class ReasonMix:
    """The first reasons of the last declines.

    Attributes:
        distance: PSI against the reference; None while the window is not full.
    """

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=WINDOW)
        self.distance: float | None = None

    def add(self, group: str, reference: Mapping[str, float]) -> None:
        """Count a decline by its first reason.

        Args:
            reference: By feature group, how often it came first among declines of training.
        """
        self._last.append(group)
        if len(self._last) < WINDOW or not sum(reference.values()):
            return
        counts = Counter(self._last)
        names = sorted({*counts, *reference})
        expected = np.array([reference.get(n, 0.0) for n in names])
        actual = np.array([float(counts[n]) for n in names])
        self.distance = psi(expected, actual)
        MIX_DISTANCE.set(self.distance)
