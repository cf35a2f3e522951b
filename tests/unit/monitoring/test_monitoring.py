"""The monitors: statistics against scipy's, silence on clean streams, alarms on drift."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from monitoring.drift_benchmark import ANY, BenchmarkStream, alarms_by_detector, run_benchmark
from monitoring.drift_monitor import DriftMonitor
from monitoring.multiple_testing import benjamini_hochberg
from monitoring.reference import Reference
from monitoring.statistics import STATISTICS
from monitoring.statistics.ks import ks
from monitoring.statistics.page_hinkley import PageHinkley
from monitoring.statistics.psi import MIN_SHARE, psi
from monitoring.window_cutter import WindowCutter

NAMES = ("a", "b", "c", "score")
ALARMING = [name for name, one in STATISTICS.all().items() if one.alarms]


def rows(rng, count=2_000, shift=0.0, missing=0.0):
    made = rng.normal(size=(count, 4))
    made[:, 0] += shift
    made[rng.random(count) < missing, 1] = np.nan
    made[:, 3] = 1 / (1 + np.exp(-made[:, 0]))
    return made


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    return Reference.of(NAMES, rows(rng, 30_000), [rows(rng) for _ in range(30)])


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=80),
    st.lists(st.floats(-5, 5), min_size=1, max_size=80),
)
def test_ks_is_scipys(one, other):
    mine = ks(np.sort(one), np.sort(other))
    assert mine == pytest.approx(stats.ks_2samp(one, other).statistic, abs=1e-9)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any), st.data())
def test_psi_is_its_formula(expected, data):
    actual = data.draw(st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any))
    by_hand = 0.0
    for e, a in zip(expected, actual, strict=True):
        e_share = max(e / sum(expected), MIN_SHARE)
        a_share = max(a / sum(actual), MIN_SHARE)
        by_hand += (a_share - e_share) * np.log(a_share / e_share)
    assert psi(np.array(expected, float), np.array(actual, float)) == pytest.approx(
        by_hand, abs=1e-9
    )


def test_benjamini_hochberg_is_scipys():
    rng = np.random.default_rng(1)
    for _ in range(50):
        p = rng.random(20) ** rng.integers(1, 6)
        adjusted = stats.false_discovery_control(p, method="bh")
        assert np.array_equal(benjamini_hochberg(p, 0.05), adjusted <= 0.05)
    assert benjamini_hochberg(np.array([np.nan, 0.0001]), 0.05).tolist() == [False, True]


def test_clean_windows_raise_no_alarm(reference):
    rng = np.random.default_rng(2)
    monitor = DriftMonitor(reference)
    assert [i for i in range(300) if monitor.check(rows(rng)).findings] == []


@pytest.mark.parametrize(
    ("change", "detector", "column"),
    [({"shift": 0.3}, "ks", "a"), ({"shift": 0.3}, "psi", "a"), ({"missing": 0.2}, "missing", "b")],
)
def test_drift_is_seen_at_once_and_named(reference, change, detector, column):
    findings = DriftMonitor(reference).check(rows(np.random.default_rng(3), **change)).findings
    assert (detector, column) in {(f.detector, f.column) for f in findings}
    assert not any(f.column == "c" for f in findings)


def test_a_column_that_is_gone_altogether_is_an_alarm_not_a_crash(reference):
    window = rows(np.random.default_rng(4))
    window[:, 2] = np.nan
    findings = DriftMonitor(reference).check(window).findings
    assert {f.detector for f in findings if f.column == "c"} == set(ALARMING)


def test_what_an_outage_left_unread_is_no_drift(reference):
    """A tenth of the window, one stretch of it: column a is known all the same, the rest is not."""
    window = rows(np.random.default_rng(4))
    unread = np.zeros(window.shape, dtype=bool)
    unread[500:700, 1:] = True
    window[unread] = np.nan
    assert {f.column for f in DriftMonitor(reference).check(window).findings} > {"b", "c"}
    assert DriftMonitor(reference).check(window, unread).findings == []


def test_a_window_of_which_nothing_was_read_is_compared_by_what_is_known(reference):
    window = rows(np.random.default_rng(4), shift=0.3)
    unread = np.zeros(window.shape, dtype=bool)
    unread[:, 1:] = True
    assert {f.column for f in DriftMonitor(reference).check(window, unread).findings} == {"a"}


def test_a_small_lasting_change_is_for_the_sequential_test():
    """Fixed seed, fixed index: half a deviation above what is tolerated, and not before it."""
    rng = np.random.default_rng(7)
    test = PageHinkley(10.0, 2.0)
    quiet = [test.update(v) for v in rng.normal(10, 2, 400)]
    assert not any(quiet)
    loud = [test.update(v) for v in rng.normal(14, 2, 60)]
    assert loud.index(True) == 8


def test_windows_are_cut_by_time_and_bounded_by_count():
    by_time = WindowCutter(span_s=10.0, min_rows=3, max_rows=100, recent=1)
    closed = [by_time.add(float(t), t) for t in range(25)]
    assert [len(c.observations) for c in closed if c is not None] == [10, 10]
    assert closed[10].observations == list(range(10))
    sparse = WindowCutter(span_s=10.0, min_rows=3, max_rows=100, recent=1)
    assert all(sparse.add(20.0 * t, t) is None for t in range(3))
    by_count = WindowCutter(span_s=0.0, min_rows=4, max_rows=4)
    assert sum(by_count.add(0.0, t) is not None for t in range(9)) == 2
    assert len(by_count) == 1


def test_a_scorecard_counts_delays_misses_and_false_alarms(reference):
    rng = np.random.default_rng(8)
    clean = [rows(rng) for _ in range(50)]
    late = [*[rows(rng) for _ in range(2)], rows(rng, shift=1.0)]
    never = [rows(rng) for _ in range(3)]
    found = run_benchmark(
        iter(
            [
                BenchmarkStream(reference, "", 0.0, clean),
                BenchmarkStream(reference, "shift", 1.0, late),
                BenchmarkStream(reference, "shift", 1.0, never),
            ]
        )
    )
    row = next(r for r in found.rows if r.detector == ANY)
    assert (row.delay_windows, row.miss_rate, row.streams) == (3.0, 0.5, 2)
    assert found.clean_windows == 50
    assert found.false_alarms_per_1000[ANY] == 0.0
    crying = run_benchmark(iter([BenchmarkStream(reference, "", 0.0, [rows(rng, shift=1.0)] * 10)]))
    assert crying.false_alarms_per_1000["ks"] == 1_000.0


def test_costs_are_known_when_labels_come(reference):
    costs = np.r_[np.full(3, 5.0), np.full(10, 50.0)]
    stream = BenchmarkStream(reference, "concept", 1.0, [], costs, (5.0, 2.0), 14)
    [first, *_] = alarms_by_detector(stream)["page_hinkley_cost"]
    assert 14 + 3 <= first <= 14 + 5


def test_one_odd_row_is_no_drift_where_nothing_ever_varies():
    """A column that is always 0 has clean distances of 0: any other would be infinitely far."""
    rng = np.random.default_rng(11)
    flat = [np.column_stack([np.zeros(200), rng.random(200)]) for _ in range(31)]
    reference = Reference.of(("clipped", "score"), np.concatenate(flat[1:]), flat[1:])
    odd = flat[0].copy()
    odd[0, 0] = 0.5
    assert DriftMonitor(reference).check(odd).findings == []
    odd[:20, 0] = 0.5
    assert {f.column for f in DriftMonitor(reference).check(odd).findings} == {"clipped"}
