"""Where a drift comes from: whoever left its own past, not whoever is unlike the others."""

import numpy as np

from monitoring.sources import MIN_ROWS, SourceTracker

STATIONS = ("line-a/1", "line-a/2", "line-b/1")
# One station is far darker than the others, always.
OFFSET = {"line-a/1": 0.0, "line-a/2": -5.0, "line-b/1": 0.5}


def window(rng, rows=120, moved="", by=0.0):
    whose = [STATIONS[i % 3] for i in range(rows)]
    values = rng.normal(size=(rows, 2))
    values[:, 0] += [OFFSET[name] + by * (name == moved) for name in whose]
    return values, whose


def learnt(rng, windows=10):
    sources = SourceTracker(2)
    for number in range(windows):
        sources.update(*window(rng), number + 1)
    return sources


def test_it_is_the_one_that_moved():
    rng = np.random.default_rng(0)
    sources = learnt(rng)
    for name in STATIONS:
        assert sources.drifted_source(*window(rng, moved=name, by=2.0), 0) == name
        assert sources.drifted_source(*window(rng, moved=name, by=2.0), 1) == ""


def test_nobody_is_blamed_for_being_different():
    rng = np.random.default_rng(1)
    sources = learnt(rng)
    assert [sources.drifted_source(*window(rng), 0) for _ in range(50)] == [""] * 50


def test_one_that_is_hardly_known_is_not_judged():
    rng = np.random.default_rng(2)
    sources = SourceTracker(2)
    assert sources.drifted_source(*window(rng, moved="line-a/1", by=9.0), 0) == ""
    sources = learnt(rng)
    few = 3 * (MIN_ROWS - 1)
    assert sources.drifted_source(*window(rng, rows=few, moved="line-a/1", by=9.0), 0) == ""


def test_what_is_missing_or_nobodys_is_left_out():
    rng = np.random.default_rng(3)
    sources = learnt(rng)
    values, whose = window(rng, moved="line-b/1", by=3.0)
    values[::2, 1] = np.nan
    assert sources.drifted_source(values, whose, 0) == "line-b/1"
    assert sources.drifted_source(values, [""] * len(whose), 0) == ""


def test_a_past_long_gone_is_forgotten():
    rng = np.random.default_rng(4)
    sources = learnt(rng)
    for number in range(200):
        sources.update(*window(rng, moved="line-a/1", by=3.0), 100 + number)
    assert sources.drifted_source(*window(rng, moved="line-a/1", by=3.0), 0) == ""
    assert sources.drifted_source(*window(rng), 0) == "line-a/1"


def test_what_was_learnt_outlives_its_process():
    rng = np.random.default_rng(5)
    sources = learnt(rng)
    again = SourceTracker.from_bytes(sources.to_bytes())
    moved = window(rng, moved="line-b/1", by=2.0)
    assert again.drifted_source(*moved, 0) == sources.drifted_source(*moved, 0) == "line-b/1"
    assert again.last_seq == 10
    again.reset_column(0)
    assert again.drifted_source(*moved, 0) == ""


def test_a_window_that_comes_again_is_learnt_once():
    rng = np.random.default_rng(6)
    sources = learnt(rng)
    before = sources.to_bytes()
    sources.update(*window(rng, moved="line-a/1", by=9.0), 10)
    assert sources.to_bytes() == before
