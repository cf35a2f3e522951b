"""What a design declares of its features, and the layout of a state.

A state is one row of float64, laid out as

    [seq, time, last_seen, first_seq, sums...]

    seq        sequence of the last event applied; exact up to 2**53
    time       event time the sums are expressed at, seconds since the epoch
    last_seen  event time of the last sighting (a transaction, not a label); 0 = never
    first_seq  sequence of the first sighting; 0 = never
    sums       one block of len(HALF_LIVES) sums a measure, in the order of `State.measures`

A key never seen is a row of zeros. A key that is null (a data set without devices) is a row of
NaN, and everything read from it is NaN.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

HOUR = 3600.0
DAY = 24 * HOUR
HALF_LIVES = np.array([1 * HOUR, 1 * DAY, 7 * DAY, 30 * DAY])
HALF_LIFE_NAMES = ("1h", "1d", "7d", "30d")

SEQ, TIME, LAST_SEEN, FIRST_SEQ, SUMS = range(5)
VALUES = 2  # where an embedding's values begin

SEQ_COLUMN = "seq"
TIME_COLUMN = "event_timestamp"

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]
Key = tuple[str, ...]
# Keys of N events by entity, None where absent.
Columns = Mapping[str, Sequence[str | None] | npt.NDArray[np.object_]]


class View(Protocol):
    """What is stored of an entity: one row of float64, of which the first is `SEQ`, then `TIME`."""

    @property
    def name(self) -> str: ...
    @property
    def keys(self) -> tuple[str, ...]: ...
    @property
    def width(self) -> int: ...


@dataclass(frozen=True)
class State:
    """One entity type's accumulator: which columns identify it and what it sums.

    Attributes:
        name: The state's name, also the name of its Feast feature view.
        keys: Columns of an event that identify the entity; two for a pair.
        measures: What is summed, in the order of the blocks in a row.
        shard: The entity whose shard owns the rows. A pair belongs to one of its members.
    """

    name: str
    keys: tuple[str, ...]
    measures: tuple[str, ...]
    shard: str

    @cached_property
    def width(self) -> int:
        """Number of float64 values in a row."""
        return SUMS + len(self.measures) * len(HALF_LIVES)

    def offset(self, measure: str) -> int:
        """Index in a row where a measure's block of sums starts. ValueError if it has none."""
        return SUMS + self.measures.index(measure) * len(HALF_LIVES)


@dataclass(frozen=True)
class Embedding:
    """One entity type's place in a graph, written every night: [seq, time, values...].

    Attributes:
        name: Also the name of its Feast feature view. keys: Columns that identify the entity.
        size: Number of values. `seq` is that of the last event the night knew.
    """

    name: str
    keys: tuple[str, ...]
    size: int

    @property
    def width(self) -> int:
        """Number of float64 values in a row."""
        return VALUES + self.size


@dataclass(frozen=True)
class FeatureSpec:
    """What a design declares of its features.

    Attributes:
        design: Its name, and that of its feature service.
        states: Accumulators; each becomes a feature view with one column, the row.
        groups: Feature groups by name; each becomes an on-demand view that reads states.
        embeddings: Written nightly; each becomes a feature view with one column, the row.
        embedded: Feature groups that read embeddings. They have a feature service of their own,
            for the models that ask for them.
        own: Columns a request brings along, float64.
        reading: "module:function", called with (group, frame of states and own columns), returns
            the group's features as a frame. A name, since Feast keeps views in a registry.
    """

    design: str
    states: tuple[State, ...]
    groups: Mapping[str, tuple[str, ...]]
    own: tuple[str, ...]
    reading: str
    embeddings: tuple[Embedding, ...] = ()
    embedded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
