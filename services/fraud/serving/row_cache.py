"""The rows that a scorer read last, in memory: what it knows while the online store is away.

A row is a state as of its sequence, and its sums decay to the time of the request, so an old row
gives features that miss only the events since. The decision logs the sequence, and the skew audit
recomputes the vector from it as from a row that was just read.

A request appends to a queue, and nothing else: `absorb` sorts what was read by entity, off the hot
path. More than 1,000 requests a second are more than it sorts: the newest of each half second are
kept, so that sorting holds no request up for more than some milliseconds.
"""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from features.spec import SEQ, View
from services.platform.types import Floats

# A row takes some 0.5 kB with its key: at most 100 MB for five states.
MAX_ROWS = 40_000
# Requests that wait to be sorted, some 2 kB and 3 to 20 us each; older ones are dropped.
MAX_WAITING = 500

_Keys = Mapping[str, str | None]
_Key = tuple[str | None, ...]
# By view name, keys and rows (1, width), the newest last.
KeptRows = Mapping[str, Sequence[tuple[_Key, Floats]]]


class RowCache:
    """By view, the newest row of each of the last `max_rows` entities that were read."""

    def __init__(self, views: Sequence[View], max_rows: int = MAX_ROWS) -> None:
        self._views = [(view.name, view.keys, view.width) for view in views]
        # Rows that requests have read, and those of the last run and of the store's scan.
        self._rows: dict[str, dict[_Key, Floats]] = {v.name: {} for v in views}
        self._older: dict[str, dict[_Key, Floats]] = {v.name: {} for v in views}
        self._max_rows = max_rows
        self._waiting: deque[tuple[_Keys, Mapping[str, Floats]]] = deque(maxlen=MAX_WAITING)

    def keep(self, keys: _Keys, rows: Mapping[str, Floats]) -> None:
        """Keep the rows (1, width) that were read for one request.

        Args:
            keys: By entity, the request's key.
            rows: By view name.
        """
        self._waiting.append((keys, rows))

    def absorb(self) -> None:
        """Sort what was kept since the last time by entity."""
        waiting = list(self._waiting)
        self._waiting.clear()
        for name, entities, _ in self._views:
            kept, older = self._rows[name], self._older[name]
            for keys, rows in waiting:
                key = tuple([keys[entity] for entity in entities])
                kept.pop(key, None)  # the newest are last
                older.pop(key, None)
                kept[key] = rows[name]
            while len(kept) + len(older) > self._max_rows:
                first = older or kept
                del first[next(iter(first))]

    def known(self, keys: _Keys) -> dict[str, Floats]:
        """By view name, the kept row (1, width), NaN for an entity without one."""
        self.absorb()
        found = {}
        for name, entities, width in self._views:
            key = tuple([keys[entity] for entity in entities])
            row = self._rows[name].get(key)
            row = self._older[name].get(key) if row is None else row
            found[name] = np.full((1, width), np.nan) if row is None else row
        return found

    @property
    def views(self) -> list[str]:
        """Names of the views."""
        return list(self._rows)

    def kept(self, view: str) -> list[tuple[_Key, Floats]]:
        """The rows of a view with their keys, the newest last."""
        self.absorb()
        return [*self._older[view].items(), *self._rows[view].items()]

    def add_older(self, kept: KeptRows) -> bool:
        """Take rows of entities that no request has read, while there is room.

        They are the first to go when room is short, and a later call replaces those of an earlier.

        Returns:
            Whether there is still room.

        Raises:
            ValueError: a view is unknown, or its rows have another width.
        """
        widths = {name: width for name, _, width in self._views}
        for name, rows in kept.items():
            if name not in widths or any(row.shape != (1, widths[name]) for _, row in rows):
                raise ValueError(f"rows of an unknown view {name!r}")
        self.absorb()
        for name, rows in kept.items():
            read, older = self._rows[name], self._older[name]
            for key, row in rows:
                if key in older or (key not in read and self._room(name) > 0):
                    older[key] = row
        return any(self._room(name) for name in self._rows)

    def _room(self, view: str) -> int:
        return self._max_rows - len(self._rows[view]) - len(self._older[view])

    def __len__(self) -> int:
        """Number of kept rows that were read, of all views."""
        return sum(not np.isnan(row.item(SEQ)) for v in self.views for _, row in self.kept(v))
