"""The states and embeddings that a design declares, and the layout of their rows.

A state is one row of float64, laid out as

    [seq, time, last_seen, first_seq, sums...]

    seq        sequence of the last event applied; exact up to 2**53
    time       event time the sums are expressed at, seconds since the epoch
    last_seen  event time of the last transaction (labels do not count); 0 = never
    first_seq  sequence of the first transaction; 0 = never
    sums       for each measure, in the order of `State.measures`, one sum per half-life

An entity without events is a row of zeros. A null key (a data set without devices) is a row of
NaN, and so is every feature computed from it.

`hash` of a view covers what its rows depend on: keys, measures, half-lives. Rows carry it in the
online store, so a row that was written under another declaration is never misread.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from features import expressions

HOUR = 3600.0
DAY = 24 * HOUR
# By name, the half-lives of every sum, seconds.
HALF_LIVES: Mapping[str, float] = {"1h": 1 * HOUR, "1d": 1 * DAY, "7d": 7 * DAY, "30d": 30 * DAY}

# The header of a state row: names, and their indices.
HEADER = ("seq", "time", "last_seen", "first_seq")
SEQ, TIME, LAST_SEEN, FIRST_SEQ = range(len(HEADER))
SUMS = len(HEADER)  # index of the first sum
VALUES = 2  # index of the first value in an embedding row, behind `seq` and `time`

SEQ_COLUMN = "seq"
TIME_COLUMN = "event_timestamp"

Key = tuple[str, ...]
# By entity, the (N,) keys of N events, None where absent.
KeyColumns = Mapping[str, Sequence[str | None] | npt.NDArray[np.object_]]


def digest(declared: Any) -> str:
    """A hash of 16 hex digits of a declaration that JSON can hold.

    >>> digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    True
    """
    text = json.dumps(declared, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class View(Protocol):
    """A feature view with one row of float64 per entity, which begins with `SEQ` and `TIME`."""

    @property
    def name(self) -> str:
        """Name of the Feast feature view."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that identify the entity."""

    @property
    def shard(self) -> str:
        """The one of them whose shard the rows are in."""

    @property
    def width(self) -> int:
        """Number of float64 values in a row."""

    @property
    def hash(self) -> str:
        """Hash of what the rows depend on, 16 hex digits."""

    @property
    def first_hash(self) -> str:
        """Hash of the rows that were written before rows carried one; empty if there are none."""


@dataclass(frozen=True)
class Measure:
    """What an event adds to a sum.

    Attributes:
        name: Its name in expressions of features.
        documentation: What the sum counts, in a sentence.
        value: What an event adds: an expression over the event's columns and, with `first_of`,
            `first`, which is 1 for the first transaction of the entity of that state.
        first_of: A state that is folded before this one.
    """

    name: str
    documentation: str
    value: str
    first_of: "State | None" = None


@dataclass(frozen=True)
class State:
    """The accumulator of one entity type.

    Attributes:
        name: Also the name of its Feast feature view.
        keys: Columns of an event that identify the entity; two for a pair.
        measures: What is summed, in the order of the blocks in a row.
        shard: The entity whose shard owns the rows; for a pair, one of its two entities.
        first_hash: See `View`.
    """

    name: str
    keys: tuple[str, ...]
    measures: tuple[Measure, ...]
    shard: str
    first_hash: str = ""

    @cached_property
    def width(self) -> int:
        """Number of float64 values in a row."""
        return SUMS + len(self.measures) * len(HALF_LIVES)

    def column(self, measure: str, half_life: str) -> int:
        """Index in a row of a measure's sum with a half-life. ValueError if it has none."""
        names = [one.name for one in self.measures]
        if measure not in names or half_life not in HALF_LIVES:
            raise ValueError(f"{self.name} has no sum {measure!r} with half-life {half_life!r}")
        return SUMS + names.index(measure) * len(HALF_LIVES) + list(HALF_LIVES).index(half_life)

    @cached_property
    def together(self) -> tuple["State", ...]:
        """The states to fold for the rows of this one, in order: those it needs, then itself."""
        needed = (m.first_of for m in self.measures if m.first_of is not None)
        return (*dict.fromkeys(one for state in needed for one in state.together), self)

    @cached_property
    def hash(self) -> str:
        """Hash of the header, keys, half-lives and measures, and of the states it needs."""
        measures = [
            [m.name, expressions.canonical(m.value), m.first_of and m.first_of.hash]
            for m in self.measures
        ]
        return digest([self.name, self.keys, HEADER, list(HALF_LIVES.items()), measures])


@dataclass(frozen=True)
class Embedding:
    """The graph embedding of one entity type, refreshed nightly: [seq, time, values...].

    `seq` is the sequence of the last event in the graph that the embedding was computed from.

    Attributes:
        name: Also the name of its Feast feature view.
        keys: Columns that identify the entity.
        size: Number of values.
        phrase: What it is, in a few words.
        first_hash: See `View`.
    """

    name: str
    keys: tuple[str, ...]
    size: int
    phrase: str = ""
    first_hash: str = ""

    @property
    def shard(self) -> str:
        """See `View`: embeddings are of one entity."""
        return self.keys[0]

    @property
    def width(self) -> int:
        """Number of float64 values in a row."""
        return VALUES + self.size

    @cached_property
    def hash(self) -> str:
        """Hash of the header, keys and size."""
        return digest([self.name, self.keys, HEADER[:VALUES], self.size])
