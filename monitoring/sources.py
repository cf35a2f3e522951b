"""Where a drift comes from: each source (a station of a line) is compared with its own past.

An alarm says that sharpness fell; the operator has to know which lens to clean. Sources differ for
good reasons, so a source is compared with itself, by a decayed mean and spread of its values.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from services.platform.types import Floats

# A window this many windows ago has half the weight.
HALF_LIFE_WINDOWS = 20.0
# A source with fewer rows, now or before, is not compared; one that is nearer to its past than this
# many standard errors has not drifted.
MIN_ROWS = 10
MIN_STANDARD_ERRORS = 4.0
# A window with so many rows of one source says nothing of the others.
DOMINATING_SHARE = 0.9


@dataclass
class _DecayedSums:
    """Decayed count, sums and sums of squares of a source's columns, (F,) each."""

    count: Floats
    total: Floats
    squares: Floats

    def deviation(self, rows: Floats) -> Floats:
        """(F,) standard errors between the means of rows (N, F) and of the past; NaN if unknown."""
        known = np.where(self.count >= MIN_ROWS, self.count, np.nan)
        mean = self.total / known
        spread = np.sqrt(np.maximum(self.squares / known - mean**2, 0.0))
        present = (~np.isnan(rows)).sum(axis=0)
        error = np.maximum(spread, 1e-12) / np.sqrt(np.maximum(present, 1))
        now = np.nansum(rows, axis=0) / np.where(present >= MIN_ROWS, present, np.nan)
        return (now - mean) / error

    def update(self, rows: Floats) -> None:
        decay = 0.5 ** (1.0 / HALF_LIFE_WINDOWS)
        self.count = decay * self.count + (~np.isnan(rows)).sum(axis=0)
        self.total = decay * self.total + np.nansum(rows, axis=0)
        self.squares = decay * self.squares + np.nansum(rows**2, axis=0)


def sources_path(design: str) -> str:
    """Where in the lake's bucket the state of a design's `SourceTracker` is stored."""
    return f"monitor/{design}.sources.json"


class SourceTracker:
    """Decayed statistics of each source, from windows in which nothing drifted.

    Attributes:
        columns: F, how many columns they are of.
        last_seq: Sequence of the last message that they contain.
        version: Of the model whose scores are in the last column, 0 for none yet.
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self._sums: dict[str, _DecayedSums] = {}
        self.last_seq = self.version = 0

    def update(self, rows: Floats, sources: Sequence[str], last_seq: int) -> None:
        """Take a clean window.

        Args:
            rows: (N, F).
            sources: (N,) the source of each row, empty for none.
            last_seq: Sequence of the window's last message. A window that comes again after a crash
                is ignored.
        """
        if last_seq <= self.last_seq:
            return
        for name, own in _by_source(rows, sources):
            if name not in self._sums:
                self._sums[name] = _DecayedSums(*np.zeros((3, self.columns)))
            self._sums[name].update(own)
        self.last_seq = last_seq

    def reset_column(self, column: int) -> None:
        """Forget one column of all sources."""
        for sums in self._sums.values():
            for values in (sums.count, sums.total, sums.squares):
                values[column] = 0.0

    def drifted_source(self, rows: Floats, sources: Sequence[str], column: int) -> str:
        """The source that moved most from its own past in a column; empty if none did for certain.

        Args:
            rows: (N, F).
            sources: (N,) the source of each row, empty for none.
            column: 0..F - 1.
        """
        errors = {
            name: abs(float(self._sums[name].deviation(own)[column]))
            for name, own in _by_source(rows, sources)
            if name in self._sums
        }
        certain = {name: value for name, value in errors.items() if value >= MIN_STANDARD_ERRORS}
        return max(certain, key=lambda name: certain[name], default="")

    def dominating_source(self, sources: Sequence[str]) -> str:
        """The source of nearly all rows of a window, if it is not the only one known; else empty.

        Args:
            sources: (N,) the source of each row, empty for none.
        """
        [(name, count)] = Counter(sources).most_common(1)
        is_only = not set(self._sums) - {name}
        return "" if is_only or count < DOMINATING_SHARE * len(sources) else name

    def to_bytes(self) -> bytes:
        """The state as a JSON file."""
        sums = {name: [s.count, s.total, s.squares] for name, s in self._sums.items()}
        state = {"columns": self.columns, "until": self.last_seq,
                 "version": self.version, "past": sums}  # fmt: skip
        return orjson.dumps(state, option=orjson.OPT_SERIALIZE_NUMPY)

    @classmethod
    def from_bytes(cls, data: bytes) -> "SourceTracker":
        """Read a file of `to_bytes`.

        Raises:
            ValueError: It is no such file.
        """
        try:
            state = orjson.loads(data)
            made = cls(state["columns"])
            made.last_seq, made.version = state["until"], state["version"]
            past = state["past"].items()
            made._sums = {name: _DecayedSums(*map(np.array, sums)) for name, sums in past}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no state of sources: {error!r}") from error
        return made


def _by_source(rows: Floats, sources: Sequence[str]) -> Iterable[tuple[str, Floats]]:
    names = np.array(sources)
    return [(str(name), rows[names == name]) for name in np.unique(names) if name]
