"""Conformance: what every registered drift statistic does, and that a new one is one file."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from monitoring.drift_benchmark import detectors
from monitoring.drift_monitor import FALSE_DISCOVERY_RATE, DriftMonitor
from monitoring.drift_statistic import DriftStatistic, ReferenceColumn, StatisticRegistry
from monitoring.drift_table import drift_schema, window_row
from monitoring.multiple_testing import benjamini_hochberg
from monitoring.reference import Reference
from monitoring.statistics import STATISTICS
from monitoring.statistics.wasserstein import Wasserstein
from monitoring.worker import DRIFT_DISTANCE

ALL = STATISTICS.all()
PAGE = Path(__file__).parents[3] / "docs" / "monitoring.md"


every = pytest.mark.parametrize("statistic", ALL.values(), ids=list(ALL))


def row_of(reference, result):
    return window_row(1, None, "m:1", result.rows, reference.names, result.distances, [])


def summary(statistic, values):
    ordered = np.sort(values)
    return statistic.summarise(ReferenceColumn(ordered, ordered))


def distances(statistic, values, windows):
    known = summary(statistic, values)
    return [statistic.distance(known, np.sort(window)) for window in windows]


def some_missing(values, share, rng):
    return np.where(rng.random(len(values)) < share, np.nan, values)


@every
def test_it_says_what_it_is(statistic):
    for text in (statistic.name, statistic.unit, statistic.why):
        assert text
        assert text.strip() == text
    assert "." not in statistic.name, "a stored reference's arrays are named <statistic>.<array>"


@every
def test_it_is_zero_on_itself(statistic):
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=1_500)
    columns = [
        values,
        some_missing(values, 0.3, rng),
        np.full(1_500, 4.2),
        np.zeros(1_500),
        np.full(1_500, np.nan),
        rng.integers(0, 2, 1_500).astype(float),
    ]
    for column in columns:
        assert distances(statistic, column, [column]) == [0.0]


@every
def test_it_grows_with_a_shift_or_with_missing_values(statistic):
    rng = np.random.default_rng(1)
    values = rng.normal(size=1_500)
    missing = rng.random(1_500)
    shifted = distances(statistic, values, [values + by for by in np.linspace(0, 3, 13)])
    gone = distances(
        statistic,
        values,
        [np.where(missing < share, np.nan, values) for share in np.linspace(0, 0.9, 10)],
    )
    by_shift, by_missing = np.diff(shifted), np.diff(gone)
    # PSI counts an empty bin as one of a ten-thousandth: it may step back by less than that.
    assert (by_shift >= -0.01).all()
    assert shifted[-1] > 0.5 or gone[-1] > 0.5
    assert (by_shift[:4] > 0).all() or (by_missing > 0).all()


@every
def test_it_is_finite_whatever_is_missing_or_constant(statistic):
    rng = np.random.default_rng(2)
    usual = rng.normal(size=500)
    columns = [
        usual,
        some_missing(usual, 0.5, rng),
        np.full(500, np.nan),
        np.zeros(500),
        np.full(500, 1e9),
        np.append(np.full(499, np.nan), 1.0),
    ]
    for column in columns:
        found = distances(statistic, column, columns)
        assert np.isfinite(found).all()
        assert min(found) >= 0.0


@every
def test_clean_windows_are_silent_by_calibrated_p_values(statistic):
    rng = np.random.default_rng(3)

    def rows(count):
        made = rng.lognormal(size=(count, 6))
        made[rng.random(count) < 0.2, 1] = np.nan
        made[:, 2] = rng.integers(0, 2, count)
        made[:, 3] = 7.0
        made[rng.random(count) < 0.001, 4] = np.nan
        return made

    names = ("heavy", "missing", "binary", "constant", "odd", "score")
    reference = Reference.of(names, rows(20_000), [rows(1_000) for _ in range(30)])
    for _ in range(200):
        p = reference.p_values(reference.distances(rows(1_000)))[statistic.name]
        assert not benjamini_hochberg(p, FALSE_DISCOVERY_RATE).any()


def test_wasserstein_is_scipys_in_standard_deviations():
    rng = np.random.default_rng(4)
    values = rng.normal(size=4_000)
    for shift, scale in ((0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (-1.0, 0.5)):
        window = shift + scale * rng.normal(size=3_000)
        expected = stats.wasserstein_distance(values, window) / values.std()
        [found] = distances(Wasserstein(), values, [window])
        assert found == pytest.approx(expected, abs=0.01)


def test_the_metric_names_each_statistic_and_its_unit():
    [family] = DRIFT_DISTANCE.describe()
    for name, statistic in ALL.items():
        assert f"{name} in {statistic.unit}" in family.documentation


def test_a_name_is_taken_once():
    registry = StatisticRegistry("monitoring.statistics")
    one = type("One", (Wasserstein,), {"name": "one", "__module__": "somewhere"})
    registry.register(one)
    with pytest.raises(ValueError, match="'one' is somewhere already"):
        registry.register(one)


@pytest.fixture
def variance_ratio(monkeypatch):
    """The statistic of docs/monitoring.md, as its text has it."""
    monkeypatch.setattr(STATISTICS, "_known", dict(ALL))
    text = PAGE.read_text().split("```python\n")[1].split("```")[0]
    module = ModuleType("variance_ratio")
    exec(compile(text, str(PAGE), "exec"), module.__dict__)
    [name] = set(STATISTICS.all()) - set(ALL)
    return STATISTICS.all()[name]


def test_a_new_statistic_touches_no_other_file(variance_ratio):
    """It is calibrated, stored, read, compared, written to the lake and benchmarked."""
    assert isinstance(variance_ratio, DriftStatistic)
    rng = np.random.default_rng(5)
    windows = [rng.normal(size=(500, 2)) for _ in range(20)]
    made = Reference.of(("amount", "score"), np.concatenate(windows), windows)
    reference = Reference.from_bytes(made.to_bytes())
    assert reference.skipped == ()
    wide = rng.normal(size=(500, 2)) * [2.0, 1.0]
    result = DriftMonitor(reference).check(wide)
    name = variance_ratio.name
    assert (name, "amount") in {(f.detector, f.column) for f in result.findings}
    assert len(row_of(reference, result)[name]) == 2
    assert name in drift_schema().names
    assert name in detectors()
    test_it_is_zero_on_itself(variance_ratio)
    test_it_is_finite_whatever_is_missing_or_constant(variance_ratio)


def test_a_reference_from_before_a_statistic_goes_without_it(variance_ratio, monkeypatch):
    rng = np.random.default_rng(6)
    windows = [rng.normal(size=(500, 2)) for _ in range(20)]
    with monkeypatch.context() as before:
        before.setattr(STATISTICS, "_known", dict(ALL))
        data = Reference.of(("amount", "score"), np.concatenate(windows), windows).to_bytes()
    reference = Reference.from_bytes(data)
    assert reference.skipped == (variance_ratio.name,)
    result = DriftMonitor(reference).check(windows[0])
    assert set(result.distances) == set(ALL)
    assert row_of(reference, result).keys() == {
        "seq", "event_time", "model", "rows", "columns", "alarms", *ALL
    }  # fmt: skip
