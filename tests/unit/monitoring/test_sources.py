"""The source of a drift is the one that left its own past, not the one unlike the others."""

import numpy as np
import pytest

from monitoring.sources import MIN_ROWS, SourceTracker

STATIONS = ("line-a/1", "line-a/2", "line-b/1")
# One station is far darker than the others, always.
OFFSET = {"line-a/1": 0.0, "line-a/2": -5.0, "line-b/1": 0.5}


def window(rng, rows=120, moved="", by=0.0):
    sources = [STATIONS[i % 3] for i in range(rows)]
    values = rng.normal(size=(rows, 2))
    values[:, 0] += [OFFSET[name] + by * (name == moved) for name in sources]
    return values, sources


def tracked(rng, windows=10):
    tracker = SourceTracker(2)
    for number in range(windows):
        tracker.update(*window(rng), number + 1)
    return tracker


def test_the_source_that_moved_is_found():
    rng = np.random.default_rng(0)
    tracker = tracked(rng)
    for name in STATIONS:
        assert tracker.drifted_source(*window(rng, moved=name, by=2.0), 0) == name
        assert tracker.drifted_source(*window(rng, moved=name, by=2.0), 1) == ""


def test_a_source_that_differs_from_the_others_has_not_drifted():
    rng = np.random.default_rng(1)
    tracker = tracked(rng)
    assert [tracker.drifted_source(*window(rng), 0) for _ in range(50)] == [""] * 50


def test_a_source_with_few_rows_is_not_compared():
    rng = np.random.default_rng(2)
    tracker = SourceTracker(2)
    assert tracker.drifted_source(*window(rng, moved="line-a/1", by=9.0), 0) == ""
    tracker = tracked(rng)
    few = 3 * (MIN_ROWS - 1)
    assert tracker.drifted_source(*window(rng, rows=few, moved="line-a/1", by=9.0), 0) == ""


def test_missing_values_and_rows_without_a_source_are_left_out():
    rng = np.random.default_rng(3)
    tracker = tracked(rng)
    values, sources = window(rng, moved="line-b/1", by=3.0)
    values[::2, 1] = np.nan
    assert tracker.drifted_source(values, sources, 0) == "line-b/1"
    assert tracker.drifted_source(values, [""] * len(sources), 0) == ""


def test_an_old_past_is_forgotten():
    rng = np.random.default_rng(4)
    tracker = tracked(rng)
    for number in range(200):
        tracker.update(*window(rng, moved="line-a/1", by=3.0), 100 + number)
    assert tracker.drifted_source(*window(rng, moved="line-a/1", by=3.0), 0) == ""
    assert tracker.drifted_source(*window(rng), 0) == "line-a/1"


def test_the_state_is_stored_and_read():
    rng = np.random.default_rng(5)
    tracker = tracked(rng)
    again = SourceTracker.from_bytes(tracker.to_bytes())
    moved = window(rng, moved="line-b/1", by=2.0)
    assert again.drifted_source(*moved, 0) == tracker.drifted_source(*moved, 0) == "line-b/1"
    assert again.last_seq == 10
    again.reset_column(0)
    assert again.drifted_source(*moved, 0) == ""


def test_a_window_that_comes_again_counts_once():
    rng = np.random.default_rng(6)
    tracker = tracked(rng)
    before = tracker.to_bytes()
    tracker.update(*window(rng, moved="line-a/1", by=9.0), 10)
    assert tracker.to_bytes() == before


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"7", b'{"columns": 2, "until": 1}'])
def test_a_file_of_another_kind_is_named(data):
    with pytest.raises(ValueError, match="no state of sources"):
        SourceTracker.from_bytes(data)


def test_a_source_that_made_a_window_alone_is_named_if_others_are_known():
    tracker = tracked(np.random.default_rng(2))
    assert tracker.dominating_source(["made-up/1"] * 190 + ["line-a/1"] * 10) == "made-up/1"
    assert tracker.dominating_source(["line-a/1"] * 170 + ["line-a/2"] * 30) == ""
    assert tracker.dominating_source([""] * 200) == ""
    alone = SourceTracker(2)
    assert alone.dominating_source(["line-a/1"] * 200) == ""
