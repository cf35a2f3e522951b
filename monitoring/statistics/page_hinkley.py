"""A sequential detector over windows: small changes that last, which no single window shows.

River's Page-Hinkley test on figures of windows (the mean score, the cost), standardised by clean
ones. Sources: Page, "Continuous Inspection Schemes", Biometrika 1954; Vasilopoulos and Stamboulis,
"Modification of Control Chart Limits in the Presence of Data Correlation", 1978.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from river.drift import PageHinkley

# In standard deviations of clean windows: what is tolerated each window, and what is alarm.
TOLERATED, ALARM = 0.75, 12.0
# A day's cost is like the day before's: fraud comes in campaigns. Sums of figures whose neighbours
# correlate by .6, as they do in the simulated world, spread sqrt((1 + .6) / (1 - .6)) times as far.
CORRELATED = 2.0


def _page_hinkley(mode: str) -> Any:
    return PageHinkley(min_instances=1, delta=TOLERATED, threshold=ALARM, alpha=1.0, mode=mode)


@dataclass
class Sequential:
    """Watches one figure.

    Attributes:
        mean, deviation: Of that figure over clean windows.
        mode: "both", or "up" where less is no cause for alarm.
    """

    mean: float
    deviation: float
    mode: str = "both"
    _test: Any = field(init=False)
    _begun: bool = False

    def __post_init__(self) -> None:
        self._test = _page_hinkley(self.mode)

    @classmethod
    def of_cost(cls, first: Sequence[float]) -> "Sequential":
        """Watches a cost for rises, against its own first figures."""
        return cls(float(np.mean(first)), CORRELATED * float(np.std(first, ddof=1)), "up")

    def update(self, value: float) -> bool:
        """Take a window's figure; true where the change is certain. It then starts anew."""
        if not self._begun:
            # The test learns its mean from what it sees: let it begin with the clean one.
            self._begun = True
            for _ in range(50):
                self._test.update(0.0)
        self._test.update((value - self.mean) / max(self.deviation, 1e-12))
        alarm = bool(self._test.drift_detected)
        if alarm:
            self._test, self._begun = _page_hinkley(self.mode), False
        return alarm
