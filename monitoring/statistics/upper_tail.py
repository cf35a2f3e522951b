"""A sequential test of extreme values: a kind of case that is rare, but unlike all of training.

Ten parts in two hundred change no histogram that counts deciles, and their mean drowns in the
spread of known defects. But they lie beyond nearly everything that training had: the test counts
values above its 99th percentile and adds up how many more there are than one in a hundred.

Source: Page, "Continuous Inspection Schemes", Biometrika 1954 (cumulative sum, one-sided).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats

from services.platform.types import Floats, Integers

# Share of training values that are extreme. Simulated inspection, new defect at half strength, 150
# references of 900 images each, 15,000 clean windows of 200: seen within 3 windows 98.5 % of the
# time, 0.7 false alarms in 1,000. With .98 it is 90 %, with .995 there are 3 false alarms.
TAIL_SHARE = 0.01
# In standard deviations of a clean window's count. The tolerance is wide because the percentile
# itself is an estimate: with 1.0, one reference in ten would be off by more, 5.9 false alarms.
TOLERANCE, THRESHOLD = 1.5, 4.0
# A source is named if it has so many extreme values by chance only this often.
_MAX_P_OF_SOURCE = 0.001


class UpperTail:
    """Watches how many values of one column are extreme.

    Attributes:
        edge: Values above it are extreme.
    """

    def __init__(self, sample: Floats, clean_rows: int) -> None:
        """Begin with no excess.

        Args:
            sample: (K,) values of training, NaN where missing; all NaN raises no alarm.
            clean_rows: Rows of a usual window.
        """
        known = sample[~np.isnan(sample)]
        self.edge = float(np.quantile(known, 1.0 - TAIL_SHARE)) if len(known) else float("inf")
        self._deviation = np.sqrt(TAIL_SHARE * (1.0 - TAIL_SHARE) / max(clean_rows, 1))
        self._excess = 0.0
        self._rows: Counter[str] = Counter()
        self._extreme: Counter[str] = Counter()

    def update(self, column: Floats, sources: Sequence[str]) -> bool:
        """Take a window's values (N,) and their sources; true where there is an alarm.

        >>> test = UpperTail(np.arange(1000.0), 200)
        >>> usual, novel = np.arange(0.0, 1000.0, 5.0), np.full(12, 2000.0)
        >>> test.update(usual, [""] * 200), test.update(np.append(usual[12:], novel), [""] * 200)
        (False, True)
        """
        if self._excess == 0.0:
            self._rows.clear()
            self._extreme.clear()
        names = np.array(sources)
        self._rows.update(names.tolist())
        self._extreme.update(names[column > self.edge].tolist())
        known = max(int((~np.isnan(column)).sum()), 1)
        share = float((column > self.edge).sum()) / known
        self._excess += (share - TAIL_SHARE) / self._deviation - TOLERANCE
        self._excess = max(self._excess, 0.0)
        alarm = bool(self._excess > THRESHOLD)
        if alarm:
            self._excess = 0.0
        return alarm

    def source(self) -> str:
        """The source with the most improbable number of extreme values since the excess began.

        Empty if every source's number is probable, or if more than half are improbable.
        """
        p = {
            name: float(stats.binom.sf(self._extreme[name] - 1, rows, TAIL_SHARE))
            for name, rows in self._rows.items()
            if name
        }
        certain = [name for name, value in p.items() if value < _MAX_P_OF_SOURCE]
        # Where more than half have too many, none of them is the cause.
        if not certain or 2 * len(certain) > len(p):
            return ""
        return min(certain, key=lambda name: p[name])

    def extreme_rows(self, column: Floats, count: int) -> Integers:
        """Numbers of the `count` rows with the most extreme values, the largest first."""
        rows = np.flatnonzero(column > self.edge)
        return rows[np.argsort(-column[rows], kind="stable")][:count]
