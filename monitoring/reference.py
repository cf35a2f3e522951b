"""What is normal: summaries of the training data, and how far clean windows lie from them.

A day is not a random sample of the month: it has its own customers, weather and hours. So a
window's distance is not compared with a textbook's critical value but with the distances of clean
windows of the same kind. The logarithms of those are close to normal, and a new one is compared by
Student's t with as many degrees of freedom as there were windows (ADR 9). Computed once, when a
model is trained, and stored with it.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from monitoring.drift_statistic import DriftStatistic, ReferenceColumn, Summary
from monitoring.legacy_reference import Arrays, upgraded
from monitoring.statistics import STATISTICS
from services.platform.types import Booleans, Floats

SAMPLE_ROWS = 2_000
# The logarithm of 0 is infinite, and one odd row of a window is no change: distances count from
# this many rows of a window on.
_ODD_ROWS = 2.0
# A clean spread narrower than this, in logarithms, is chance.
_MIN_SPREAD = 0.15
# A column of which less than this share of a window was read has distance 0.
_MIN_READ_SHARE = 0.5
_MIN_CLEAN_WINDOWS = 8


@dataclass(frozen=True)
class CalibratedStatistic:
    """A statistic, what it knows of each training column, and its distances of clean windows.

    Attributes:
        statistic: From the registry.
        summaries: F of them, one a column.
        clean_mean: (F,) mean of the logarithms of the clean windows' distances.
        clean_spread: (F,) standard deviation of those logarithms.
    """

    statistic: DriftStatistic
    summaries: Sequence[Summary]
    clean_mean: Floats
    clean_spread: Floats

    @classmethod
    def uncalibrated(
        cls, statistic: DriftStatistic, columns: Sequence[ReferenceColumn]
    ) -> "CalibratedStatistic":
        """Summaries of F columns alone."""
        summaries = [statistic.summarise(column) for column in columns]
        return cls(statistic, summaries, np.zeros(len(columns)), np.ones(len(columns)))

    def calibrated(self, logarithms: Floats) -> "CalibratedStatistic":
        """With the logarithms (W, F) of the distances of W clean windows."""
        spread = np.maximum(logarithms.std(axis=0, ddof=1), _MIN_SPREAD)
        return replace(self, clean_mean=logarithms.mean(axis=0), clean_spread=spread)

    def to_arrays(self) -> Arrays:
        """By name: `clean_mean` and `clean_spread` (F,), `summary.<key>` (F, ...)."""
        keys = self.summaries[0]
        summary = {f"summary.{key}": np.array([one[key] for one in self.summaries]) for key in keys}
        return {"clean_mean": self.clean_mean, "clean_spread": self.clean_spread, **summary}

    @classmethod
    def from_arrays(cls, statistic: DriftStatistic, arrays: Arrays) -> "CalibratedStatistic":
        """Read what `to_arrays` made."""
        summary = {
            key.removeprefix("summary."): values
            for key, values in arrays.items()
            if key.startswith("summary.")
        }
        mean, spread = arrays["clean_mean"], arrays["clean_spread"]
        summaries = [{key: values[i] for key, values in summary.items()} for i in range(len(mean))]
        return cls(statistic, summaries, mean, spread)


@dataclass(frozen=True)
class Reference:
    """What windows are compared with.

    Attributes:
        names: (F,) names of the columns, the score last.
        sample: (K, F) training rows, for the report.
        statistics: By name, those that this reference is calibrated for.
        clean: Number of clean windows.
        score_mean: Mean over clean windows of the mean score.
        score_spread: Standard deviation of the mean score over clean windows.
        smallest: Added to distances before the logarithm: a distance without consequence.
    """

    names: tuple[str, ...]
    sample: Floats
    statistics: Mapping[str, CalibratedStatistic]
    clean: int
    score_mean: float
    score_spread: float
    smallest: float

    @classmethod
    def of(
        cls, names: Sequence[str], rows: Floats, windows: Sequence[Floats], seed: int = 0
    ) -> "Reference":
        """Describe training rows (N, F) and clean windows (n, F) each.

        Raises:
            ValueError: fewer than 8 clean windows, too few to say what is normal.
        """
        if len(windows) < _MIN_CLEAN_WINDOWS:
            raise ValueError(f"{len(windows)} clean windows are too few to say what is normal")
        rng = np.random.default_rng(seed)
        sample = rows[rng.choice(len(rows), min(SAMPLE_ROWS, len(rows)), replace=False)]
        columns = [
            ReferenceColumn(*pair)
            for pair in zip(np.sort(rows.T, axis=1), np.sort(sample.T, axis=1), strict=True)
        ]
        means = np.array([np.nanmean(window[:, -1]) for window in windows])
        made = cls(
            names=tuple(names),
            sample=sample,
            statistics={
                name: CalibratedStatistic.uncalibrated(statistic, columns)
                for name, statistic in STATISTICS.all().items()
            },
            clean=len(windows),
            score_mean=float(means.mean()),
            score_spread=float(means.std(ddof=1)),
            smallest=_ODD_ROWS / float(np.median([len(window) for window in windows])),
        )
        return made._calibrated(windows)

    def _calibrated(self, windows: Iterable[Floats]) -> "Reference":
        found = [self.distances(window) for window in windows]
        return replace(
            self,
            statistics={
                name: part.calibrated(np.log(np.array([d[name] for d in found]) + self.smallest))
                for name, part in self.statistics.items()
            },
        )

    @property
    def clean_rows(self) -> int:
        """Rows of a clean window (median): the window size that p-values are calibrated for."""
        return round(_ODD_ROWS / self.smallest)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Registered statistics that this reference, stored before them, says nothing about."""
        return tuple(name for name in STATISTICS.all() if name not in self.statistics)

    def distances(self, window: Floats, unread: Booleans | None = None) -> dict[str, Floats]:
        """By statistic, (F,) distances of a window's columns.

        Args:
            window: (N, F).
            unread: (N, F) values that are left out, as if they had not come. A column of which most
                is left out has distance 0.
        """
        out = {name: np.zeros(len(self.names)) for name in self.statistics}
        for i, column in enumerate(window.T):
            read = column if unread is None else column[~unread[:, i]]
            if len(read) < _MIN_READ_SHARE * len(window):
                continue
            ordered = np.sort(read)
            for name, part in self.statistics.items():
                out[name][i] = part.statistic.distance(part.summaries[i], ordered)
        return out

    def p_values(self, distances: Mapping[str, Floats]) -> dict[str, Floats]:
        """By statistic, (F,) chances that a clean window lies as far off or farther."""
        return {name: self._p_values(name, values) for name, values in distances.items()}

    def _p_values(self, name: str, distances: Floats) -> Floats:
        part = self.statistics[name]
        widened = part.clean_spread * np.sqrt(1 + 1 / self.clean)
        t = (np.log(distances + self.smallest) - part.clean_mean) / widened
        p: Floats = stats.t.sf(t, self.clean - 1)
        return p

    def to_bytes(self) -> bytes:
        """As it is stored with its model: an npz file, a statistic's arrays below its name."""
        shared = {
            "names": np.array(self.names),
            "sample": self.sample,
            "clean": np.array(self.clean),
            "score_mean": np.array(self.score_mean),
            "score_spread": np.array(self.score_spread),
            "smallest": np.array(self.smallest),
        }
        parts = {
            f"{name}.{key}": values
            for name, part in self.statistics.items()
            for key, values in part.to_arrays().items()
        }
        out = io.BytesIO()
        np.savez_compressed(out, allow_pickle=False, **shared, **parts)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """Read what `to_bytes` made, or the code before it; see `skipped`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = upgraded({key: file[key] for key in file.files})
        return cls(
            names=tuple(arrays["names"].tolist()),
            sample=arrays["sample"],
            statistics=_stored_statistics(arrays),
            clean=int(arrays["clean"]),
            score_mean=float(arrays["score_mean"]),
            score_spread=float(arrays["score_spread"]),
            smallest=float(arrays["smallest"]),
        )


def _stored_statistics(arrays: Arrays) -> dict[str, CalibratedStatistic]:
    """Those registered of which a file has arrays."""
    found = {}
    for name, statistic in STATISTICS.all().items():
        prefix = f"{name}."
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        if own:
            found[name] = CalibratedStatistic.from_arrays(statistic, own)
    return found
