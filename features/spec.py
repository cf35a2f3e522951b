"""The declarations a design makes about its features, and the layout of a state.

A state is one row of float64, laid out as

    [seq, time, last_seen, first_seq, sums...]

    seq        sequence of the last event applied; exact up to 2**53
    time       event time the sums are expressed at, seconds since the epoch
    last_seen  event time of the last transaction (labels do not count); 0 = never
    first_seq  sequence of the first transaction; 0 = never
    sums       for each measure, in the order of `State.measures`, one sum per half-life

An entity without events is a row of zeros. A null key (a data set without devices) is a row of
NaN, and so is every feature computed from it.
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
VALUES = 2  # index of the first value in an embedding row

SEQ_COLUMN = "seq"
TIME_COLUMN = "event_timestamp"

Key = tuple[str, ...]
# By entity, the (N,) keys of N events, None where absent.
KeyColumns = Mapping[str, Sequence[str | None] | npt.NDArray[np.object_]]


class View(Protocol):
    """A feature view with one row of float64 per entity, which begins with `SEQ` and `TIME`."""

    @property
    def name(self) -> str:
        """Name of the Feast feature view."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that identify the entity."""

    @property
    def width(self) -> int:
        """Number of float64 values in a row."""


@dataclass(frozen=True)
class State:
    """The accumulator of one entity type.

    Attributes:
        name: Also the name of its Feast feature view.
        keys: Columns of an event that identify the entity; two for a pair.
        measures: What is summed, in the order of the blocks in a row.
        shard: The entity whose shard owns the rows; for a pair, one of its two entities.
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
    """The graph embedding of one entity type, refreshed nightly: [seq, time, values...].

    `seq` is the sequence of the last event in the graph that the embedding was computed from.

    Attributes:
        name: Also the name of its Feast feature view.
        keys: Columns that identify the entity.
        size: Number of values.
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
    """All features of a design.

    Attributes:
        design: Name of the design, and of its feature service.
        states: Accumulators; each becomes a feature view with one column, the row.
        groups: Names of the features by group; each group becomes an on-demand feature view.
        request_features: Columns that come with a request, float64.
        transform: "module:function", called with (group, frame of states and request features);
            returns the group's features as a frame. A string, since Feast stores it in its
            registry.
        embeddings: Refreshed nightly; each becomes a feature view with one column, the row.
        embedding_groups: Feature groups that read embeddings. They are part of a second feature
            service only, for the models that ask for them.
    """

    design: str
    states: tuple[State, ...]
    groups: Mapping[str, tuple[str, ...]]
    request_features: tuple[str, ...]
    transform: str
    embeddings: tuple[Embedding, ...] = ()
    embedding_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
