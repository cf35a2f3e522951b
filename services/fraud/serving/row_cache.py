"""The rows that a scorer read last, in memory: what it knows while the online store is away.

A row is a state as of its sequence, and its sums decay to the time of the request, so an old row
gives features that miss only the events since. The decision logs the sequence, and the skew audit
recomputes the vector from it as from a row that was just read.

A request appends to a list, and nothing else: `absorb` sorts what was read by entity, off the hot
path.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from features.spec import SEQ, View
from services.platform.types import Floats

# A row takes some 0.5 kB with its key: at most 100 MB for five states.
MAX_ROWS = 40_000
# Requests that may wait to be sorted, some 2 kB each, if nothing absorbs.
_MAX_WAITING = 5_000

_Keys = Mapping[str, str | None]
_Key = tuple[str | None, ...]
# By view name, keys and rows (1, width), the newest last.
KeptRows = Mapping[str, Sequence[tuple[_Key, Floats]]]


class RowCache:
    """By view, the newest row of each of the last `max_rows` entities that were read."""

    def __init__(self, views: Sequence[View], max_rows: int = MAX_ROWS) -> None:
        self._views = [(view.name, view.keys, view.width) for view in views]
        self._rows: dict[str, dict[_Key, Floats]] = {v.name: {} for v in views}
        self._max_rows = max_rows
        self._waiting: list[tuple[_Keys, Mapping[str, Floats]]] = []

    def keep(self, keys: _Keys, rows: Mapping[str, Floats]) -> None:
        """Keep the rows (1, width) that were read for one request.

        Args:
            keys: By entity, the request's key.
            rows: By view name.
        """
        self._waiting.append((keys, rows))
        if len(self._waiting) > _MAX_WAITING:
            self.absorb()

    def absorb(self) -> None:
        """Sort what was kept since the last time by entity: 3 us a request."""
        waiting, self._waiting = self._waiting, []
        for name, entities, _ in self._views:
            kept = self._rows[name]
            for keys, rows in waiting:
                key = tuple([keys[entity] for entity in entities])
                kept.pop(key, None)  # the newest are last
                kept[key] = rows[name]
            while len(kept) > self._max_rows:
                del kept[next(iter(kept))]

    def known(self, keys: _Keys) -> dict[str, Floats]:
        """By view name, the kept row (1, width), NaN for an entity that was not read lately."""
        self.absorb()
        found = {}
        for name, entities, width in self._views:
            row = self._rows[name].get(tuple([keys[entity] for entity in entities]))
            found[name] = np.full((1, width), np.nan) if row is None else row
        return found

    @property
    def views(self) -> list[str]:
        """Names of the views."""
        return list(self._rows)

    def kept(self, view: str) -> list[tuple[_Key, Floats]]:
        """The rows of a view with their keys, the newest last."""
        self.absorb()
        return list(self._rows[view].items())

    def restore(self, kept: KeptRows) -> None:
        """Take the rows of an earlier run, as older than every row of this one.

        Raises:
            ValueError: a view is unknown, or its rows have another width.
        """
        widths = {name: width for name, _, width in self._views}
        for name, rows in kept.items():
            if name not in widths or any(row.shape != (1, widths[name]) for _, row in rows):
                raise ValueError(f"rows of an unknown view {name!r}")
        self.absorb()
        for name, rows in kept.items():
            newer = self._rows[name]
            self._rows[name] = {key: row for key, row in rows if key not in newer} | newer

    def __len__(self) -> int:
        """Number of kept rows that were read, of all views."""
        self.absorb()
        return sum(
            not np.isnan(row.item(SEQ)) for kept in self._rows.values() for row in kept.values()
        )
