"""Extreme values: a rare new kind is seen within three windows, and its source and images named."""

import numpy as np
import pytest

from monitoring.drift_monitor import TAIL_DETECTOR, DriftMonitor
from monitoring.reference import Reference
from monitoring.statistics.upper_tail import TAIL_SHARE, UpperTail

WINDOW, TRAINING = 200, 900
STATIONS = tuple(f"line-{line}/station-{n}" for line in "abc" for n in (1, 2))


def parts(rng, count, new=0.0):
    """(N, 2) novelty and score: one part in ten is defective, of them a share `new` is unknown."""
    defective = rng.random(count) < 0.1
    unknown = defective & (rng.random(count) < new)
    novelty = np.where(defective, rng.gamma(2.0, 12.0, count), rng.normal(0.5, 1.5, count))
    novelty[unknown] = rng.normal(90.0, 8.0, int(unknown.sum()))
    return np.column_stack([novelty, np.where(defective, 0.9, 0.02)])


def monitor(seed):
    rng = np.random.default_rng(seed)
    rows = parts(rng, TRAINING)
    clean = [rows[rng.integers(0, TRAINING, 164)] for _ in range(50)]
    made = DriftMonitor(Reference.of(("novelty", "defect"), rows, clean), rising=("novelty",))
    return made, rng


def alarms(seed, windows, new=0.0):
    made, rng = monitor(seed)
    results = [made.check(parts(rng, WINDOW, new)) for _ in range(windows)]
    return [i for i, r in enumerate(results) for f in r.findings if f.detector == TAIL_DETECTOR]


def test_half_of_the_defects_unknown_is_seen_within_three_windows():
    found = [alarms(seed, 3, 0.5) for seed in range(20)]
    assert sum(bool(windows) for windows in found) >= 19


def test_clean_windows_are_silent_in_all_but_five_of_a_thousand():
    assert sum(len(alarms(seed, 50)) for seed in range(20)) < 5


def test_the_station_with_the_unknown_defect_and_its_parts_are_named():
    made, rng = monitor(3)
    sources = [STATIONS[i % len(STATIONS)] for i in range(WINDOW)]
    for _ in range(20):
        window = parts(rng, WINDOW)
        here = np.array([source == STATIONS[4] for source in sources])
        window[here & (rng.random(WINDOW) < 0.15), 0] = 95.0
        found = [
            f for f in made.check(window, None, sources).findings if f.detector == TAIL_DETECTOR
        ]
        if found:
            break
    [finding] = found
    assert finding.source == STATIONS[4]
    assert finding.distance > TAIL_SHARE
    assert 0 < len(finding.rows) <= 3
    assert {sources[row] for row in finding.rows} == {STATIONS[4]}


def test_no_single_station_is_named_where_all_have_it():
    test = UpperTail(np.arange(1_000.0), WINDOW)
    column = np.where(np.arange(WINDOW) < 60, 2_000.0, 1.0)
    assert test.update(column, [STATIONS[i % len(STATIONS)] for i in range(WINDOW)])
    assert test.source() == ""


@pytest.mark.parametrize("values", [np.full(WINDOW, np.nan), np.zeros(WINDOW)])
def test_a_column_without_extremes_raises_nothing(values):
    test = UpperTail(np.full(TRAINING, np.nan) if np.isnan(values).any() else values, WINDOW)
    assert not any(test.update(values, [""] * WINDOW) for _ in range(50))
