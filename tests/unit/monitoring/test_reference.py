"""References: stored and read whole, and those that the code before wrote."""

from pathlib import Path

import numpy as np
import pytest

from monitoring.reference import Reference
from monitoring.statistics import STATISTICS

# Written at commit 873b6bd, with the distances and p-values of a window by that code.
DATA = Path(__file__).parent / "data"
BEFORE = ("psi", "ks", "missing")


def test_a_reference_is_stored_whole():
    rng = np.random.default_rng(5)
    windows = [rng.normal(size=(300, 3)) for _ in range(9)]
    reference = Reference.of(("a", "b", "score"), np.concatenate(windows), windows)
    again = Reference.from_bytes(reference.to_bytes())
    assert (again.names, again.clean, again.smallest) == (("a", "b", "score"), 9, 2 / 300)
    assert again.score_mean == reference.score_mean
    assert again.score_spread == reference.score_spread
    assert np.array_equal(again.sample, reference.sample)
    known, read = reference.distances(windows[0]), again.distances(windows[0])
    p_known, p_read = reference.p_values(known), again.p_values(read)
    assert set(read) == set(STATISTICS.all())
    for name in read:
        assert np.array_equal(known[name], read[name])
        assert np.array_equal(p_known[name], p_read[name])


def test_a_file_of_the_code_before_gives_the_same_distances_and_p_values():
    reference = Reference.from_bytes((DATA / "before_summaries.reference.npz").read_bytes())
    expected = np.load(DATA / "before_summaries.expected.npz")
    assert reference.names == ("amount", "device", "score")
    assert (reference.clean, reference.clean_rows) == (12, 100)
    distances = reference.distances(expected["window"])
    p = reference.p_values(distances)
    assert set(distances) == set(BEFORE)
    assert set(reference.skipped) == set(STATISTICS.all()) - set(BEFORE)
    for row, name in enumerate(BEFORE):
        assert np.array_equal(distances[name], expected["distances"][row])
        assert np.array_equal(p[name], expected["p"][row])
    again = Reference.from_bytes(reference.to_bytes())
    assert again.skipped == reference.skipped


def test_too_few_clean_windows_are_refused():
    rows = np.random.default_rng(0).normal(size=(100, 2))
    with pytest.raises(ValueError, match="too few"):
        Reference.of(("a", "score"), rows, [rows] * 3)
