"""A mask in other forms: run lengths, and a box around each defect."""

import numpy as np
import numpy.typing as npt

from services.cv_inspection.features.image import Box
from services.platform.types import Booleans, Integers

# A noisy mask may have thousands of specks; the largest are reported.
MAX_BOXES = 50


def run_lengths(mask: Booleans) -> list[int]:
    """Lengths of alternating runs of 0 and 1 in a mask (H, W), row by row, beginning with 0.

    >>> run_lengths(np.array([[0, 0, 1], [1, 0, 0]], dtype=bool))
    [2, 2, 2]
    >>> run_lengths(np.ones((1, 2), dtype=bool))
    [0, 2]
    """
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0] * (1 + int(flat[0])), edges, [len(flat)]])
    return [int(n) for n in np.diff(ends)]


def boxes(mask: Booleans) -> list[Box]:
    """A box around each connected defect of a mask (H, W), the largest first.

    Pixels that touch at a corner are connected. Runs of each row are joined with those of the row
    above by union-find (Wu, Otoo and Suzuki, "Two Strategies to Speed up Connected Component
    Labeling Algorithms", 2005).

    >>> boxes(np.array([[1, 1, 0, 0], [0, 0, 0, 1]], dtype=bool))
    [(0, 0, 2, 1), (3, 1, 4, 2)]
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return []
    row, start, end = _runs(mask, rows)
    parent = list(range(len(row)))
    for one, other in _touching(row, start, end):
        _join(parent, one, other)
    root = np.array([_root(parent, i) for i in range(len(parent))])
    found, group = np.unique(root, return_inverse=True)
    out = np.empty((4, len(found)), dtype=np.int64)
    for axis, values, pick, empty in (
        (0, start, np.minimum, mask.shape[1]), (1, row, np.minimum, mask.shape[0]),
        (2, end, np.maximum, 0), (3, row + 1, np.maximum, 0),
    ):  # fmt: skip
        out[axis] = empty
        pick.at(out[axis], group, values)
    area = (out[2] - out[0]) * (out[3] - out[1])
    largest = np.argsort(-area, kind="stable")[:MAX_BOXES]
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in out[:, largest].T]


def _runs(mask: Booleans, rows: npt.NDArray[np.intp]) -> tuple[Integers, Integers, Integers]:
    """Row, first column and the column behind the last of each run, in reading order."""
    padded = np.zeros((len(rows), mask.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask[rows]
    change = np.diff(padded, axis=1)
    row, start = np.nonzero(change > 0)
    end = np.nonzero(change < 0)[1]
    return rows[row].astype(np.int64), start.astype(np.int64), end.astype(np.int64)


def _touching(row: Integers, start: Integers, end: Integers) -> list[tuple[int, int]]:
    """Pairs of runs in neighbouring rows that touch, also at a corner."""
    width = int(end.max()) + 2
    # Runs in reading order have ascending keys, so those that touch are a slice.
    first = np.searchsorted(row * width + end, (row - 1) * width + start, side="left")
    last = np.searchsorted(row * width + start, (row - 1) * width + end, side="right")
    return [(i, j) for i, (a, b) in enumerate(zip(first, last, strict=True)) for j in range(a, b)]


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _join(parent: list[int], one: int, other: int) -> None:
    a, b = _root(parent, one), _root(parent, other)
    parent[max(a, b)] = min(a, b)
