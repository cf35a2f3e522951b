"""Where a drift comes from: each source (a station of a line) is held to its own past.

A window says that sharpness fell; somebody has to know whose lens to clean. Sources differ for good
reasons, so one is compared with what it was itself, by a decayed mean and spread of its figures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson

Floats = npt.NDArray[np.float64]

# What was seen this many windows ago counts half.
HALF_LIFE_WINDOWS = 20.0
# A source with fewer rows, now or before, is not judged; nearer than so many standard errors to
# its past, it is not blamed.
LEAST_ROWS = 10
BLAMED = 4.0


@dataclass
class _Past:
    """Decayed count, sums and sums of squares of a source's columns, (F,) each."""

    count: Floats
    total: Floats
    squares: Floats

    def deviation(self, rows: Floats) -> Floats:
        """(F,) standard errors between the means of rows (N, F) and of the past; NaN unknown."""
        known = np.where(self.count >= LEAST_ROWS, self.count, np.nan)
        mean = self.total / known
        spread = np.sqrt(np.maximum(self.squares / known - mean**2, 0.0))
        seen = (~np.isnan(rows)).sum(axis=0)
        error = np.maximum(spread, 1e-12) / np.sqrt(np.maximum(seen, 1))
        now = np.nansum(rows, axis=0) / np.where(seen >= LEAST_ROWS, seen, np.nan)
        return (now - mean) / error

    def learn(self, rows: Floats) -> None:
        kept = 0.5 ** (1.0 / HALF_LIFE_WINDOWS)
        self.count = kept * self.count + (~np.isnan(rows)).sum(axis=0)
        self.total = kept * self.total + np.nansum(rows, axis=0)
        self.squares = kept * self.squares + np.nansum(rows**2, axis=0)


def past_path(design: str) -> str:
    """Where in the lake's bucket the past of a design's sources is kept."""
    return f"monitor/{design}.sources.json"


class Sources:
    """What each source is like. It learns from windows where nothing drifted.

    Attributes:
        until: Sequence of the last message it has learnt from.
        version: Of the model whose answers are among the columns, 0 for none yet.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._past: dict[str, _Past] = {}
        self.until = self.version = 0

    def learn(self, rows: Floats, sources: Sequence[str], until: int) -> None:
        """Take a clean window (N, F) and whose each row is, empty for nobody's.

        Args:
            until: The window's last message. One that comes again, after a crash, is known.
        """
        if until <= self.until:
            return
        for name, own in _by_source(rows, sources):
            if name not in self._past:
                self._past[name] = _Past(*np.zeros((3, self._columns)))
            self._past[name].learn(own)
        self.until = until

    def forget(self, column: int) -> None:
        """Learn one column anew."""
        for past in self._past.values():
            for figures in (past.count, past.total, past.squares):
                figures[column] = 0.0

    def blame(self, rows: Floats, sources: Sequence[str], column: int) -> str:
        """Whose figures in a column moved most from its own past; empty if nobody's certainly."""
        moved = {
            name: abs(float(self._past[name].deviation(own)[column]))
            for name, own in _by_source(rows, sources)
            if name in self._past
        }
        certain = {name: by for name, by in moved.items() if by >= BLAMED}
        return max(certain, key=lambda name: certain[name], default="")

    def to_bytes(self) -> bytes:
        """As a file."""
        past = {name: [p.count, p.total, p.squares] for name, p in self._past.items()}
        kept = {"columns": self._columns, "until": self.until,
                "version": self.version, "past": past}  # fmt: skip
        return orjson.dumps(kept, option=orjson.OPT_SERIALIZE_NUMPY)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Sources":
        """Read a file of `to_bytes`."""
        kept = orjson.loads(data)
        made = cls(kept["columns"])
        made.until, made.version = kept["until"], kept["version"]
        made._past = {name: _Past(*map(np.array, past)) for name, past in kept["past"].items()}
        return made


def _by_source(rows: Floats, sources: Sequence[str]) -> Iterable[tuple[str, Floats]]:
    whose = np.array(sources)
    return [(str(name), rows[whose == name]) for name in np.unique(whose) if name]
