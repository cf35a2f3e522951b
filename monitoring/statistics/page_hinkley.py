"""A sequential detector over windows: small changes that last, which no single window shows.

River's Page-Hinkley test on one figure a window (the mean score, the cost), standardised by clean
windows. It keeps a state, so it is not a drift statistic. Sources: Page, "Continuous Inspection
Schemes", Biometrika 1954; Vasilopoulos and Stamboulis, "Modification of Control Chart Limits in the
Presence of Data Correlation", 1978.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from river import drift

# In standard deviations of clean windows: tolerated deviation of each window, alarm threshold.
TOLERANCE, THRESHOLD = 0.75, 12.0
# A day's cost resembles the day before's, because fraud comes in campaigns. Sums of figures whose
# neighbours correlate by .6, as measured in the simulation, spread sqrt((1 + .6) / (1 - .6)) times
# as far.
CORRELATION_FACTOR = 2.0


def _page_hinkley(mode: str) -> Any:
    return drift.PageHinkley(
        min_instances=1, delta=TOLERANCE, threshold=THRESHOLD, alpha=1.0, mode=mode
    )


@dataclass
class PageHinkley:
    """Watches one figure.

    Attributes:
        mean: Of that figure over clean windows.
        deviation: Standard deviation of that figure over clean windows.
        mode: "both", or "up" where only a rise is an alarm.
    """

    mean: float
    deviation: float
    mode: str = "both"
    _test: Any = field(init=False)
    _started: bool = False

    def __post_init__(self) -> None:
        self._test = _page_hinkley(self.mode)

    @classmethod
    def of_cost(cls, costs: Sequence[float]) -> "PageHinkley":
        """Watches a cost for rises, against its own first figures (its logarithms)."""
        return cls(float(np.mean(costs)), CORRELATION_FACTOR * float(np.std(costs, ddof=1)), "up")

    def update(self, value: float) -> bool:
        """Take a window's figure; true where the threshold is passed. The test then restarts."""
        if not self._started:
            # The test estimates its mean from its input: start it with the clean mean.
            self._started = True
            for _ in range(50):
                self._test.update(0.0)
        self._test.update((value - self.mean) / max(self.deviation, 1e-12))
        alarm = bool(self._test.drift_detected)
        if alarm:
            self._test, self._started = _page_hinkley(self.mode), False
        return alarm
