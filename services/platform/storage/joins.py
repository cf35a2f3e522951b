"""Joins with a table of the lake that is read a part at a time."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.platform.types import Integers

# Below this many states, none are thrown away.
_MIN_HELD = 100_000


def first_matches(
    ids: pa.ChunkedArray, parts: Iterable[pa.Table], by: str
) -> Iterator[tuple[Integers, pa.Table]]:
    """Find the first row with each of N ids, in a table that is read in parts.

    Args:
        ids: N ids.
        parts: The table's parts, in order.
        by: The column of the parts that holds the id.

    Yields:
        For each part (K,) positions of the ids that no part before had, and the K rows.

    >>> parts = [pa.table({"id": ["a", "b"], "n": [1, 2]}), pa.table({"id": ["b"], "n": [3]})]
    >>> found = first_matches(pa.chunked_array([["b", "c"]]), parts, "id")
    >>> [(at.tolist(), rows["n"].to_pylist()) for at, rows in found]
    [([0], [2]), ([], [])]
    """
    is_open = np.ones(len(ids), dtype=bool)
    for part in parts:
        index = pc.index_in(ids, part[by])
        is_new = index.is_valid().to_numpy() & is_open
        is_open &= ~is_new
        yield np.flatnonzero(is_new), part.take(index.filter(pa.array(is_new)))


class LastBefore:
    """For each of N rows the last state of its entity before it, from a log that comes in batches.

    The rows are sorted by entity and moment. A state belongs to the first row after it; of several,
    the last counts. A row that got none takes that of the row before it, if it is the same
    entity's. So one pass suffices, the batches may come in any order, and at most about 2 N states
    are held. Entities are known by one or more keys; a row without one of them needs no state.
    """

    def __init__(self, keys: Sequence[pa.ChunkedArray], moments: Integers) -> None:
        """Say what is needed.

        Args:
            keys: The keys, each (N,), null for none.
            moments: (N,) of each row: states at it or later do not count.
        """
        self._keys = [pc.unique(key).drop_null() for key in keys]
        codes = self._codes(keys)
        self._entities = np.unique(codes[codes >= 0])
        self._moments = np.unique(moments)
        self._order = np.lexsort((moments, codes))
        self._order = self._order[codes[self._order] >= 0]
        self._count = len(codes)
        entity = np.searchsorted(self._entities, codes[self._order])
        rank = np.searchsorted(self._moments, moments[self._order])
        self._entity = entity
        # Entity and moment of each sorted row as one number.
        self._place = entity * (len(self._moments) + 1) + rank
        self._best = np.full(len(entity), np.iinfo(np.int64).min)
        self._number = np.full(len(entity), -1)
        self._held: list[pa.Table] = []
        self._rows_held = 0

    def add(self, keys: Sequence[pa.ChunkedArray], moments: Integers, states: pa.Table) -> None:
        """Take a batch of the log: K states with their keys and moments (K,)."""
        at, which = self._first_rows_after(self._codes(keys), moments)
        # The newest last: of several states for a row it is what remains.
        order = np.argsort(moments[which], kind="stable")
        at, which = at[order], which[order]
        is_newer = moments[which] >= self._best[at]
        at, which = at[is_newer], which[is_newer]
        if not len(at):
            return
        used = np.unique(which)
        self._best[at] = moments[which]
        self._number[at] = self._rows_held + np.searchsorted(used, which)
        self._held.append(states.take(pa.array(used)))
        self._rows_held += len(used)
        if self._rows_held > max(2 * len(self._number), _MIN_HELD):
            self._drop_unused()

    def found(self, none: pa.Table) -> tuple[pa.Table, Integers]:
        """The states, and (N,) which of them each row needs, -1 for none.

        Args:
            none: A table without states, in case there are none.
        """
        self._drop_unused()
        known = np.where(self._number >= 0, np.arange(len(self._number)), -1)
        last = np.maximum.accumulate(known) if len(known) else known
        is_own = (last >= 0) & (self._entity[last] == self._entity)
        number = np.full(self._count, -1)
        number[self._order] = np.where(is_own, self._number[last], -1)
        return pa.concat_tables([none, *self._held]), number

    def _first_rows_after(self, codes: Integers, moments: Integers) -> tuple[Integers, Integers]:
        """The sorted rows that are the first after a state, and the states' numbers."""
        if not len(self._entities):
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        entity = np.minimum(np.searchsorted(self._entities, codes), len(self._entities) - 1)
        which = np.flatnonzero(self._entities[entity] == codes)
        rank = np.searchsorted(self._moments, moments[which], side="right")
        at = np.searchsorted(self._place, entity[which] * (len(self._moments) + 1) + rank)
        is_row = at < len(self._place)
        is_row[is_row] = self._entity[at[is_row]] == entity[which[is_row]]
        return at[is_row], which[is_row]

    def _codes(self, keys: Sequence[pa.ChunkedArray]) -> Integers:
        """(K,) a number of each entity, -1 for one that no row has."""
        codes = np.zeros(len(keys[0]), dtype=np.int64)
        is_known = np.ones(len(codes), dtype=bool)
        for key, known in zip(keys, self._keys, strict=True):
            found = pc.fill_null(pc.index_in(key, known), -1).to_numpy()
            is_known &= found >= 0
            codes = codes * len(known) + found
        return np.where(is_known, codes, -1)

    def _drop_unused(self) -> None:
        if not self._held:
            return
        used = np.unique(self._number[self._number >= 0])
        self._held = [pa.concat_tables(self._held).take(pa.array(used)).combine_chunks()]
        self._number = np.where(
            self._number >= 0, np.searchsorted(used, self._number), self._number
        )
        self._rows_held = len(used)
