"""Windows by event time: far-off times move none, and a restart cuts the same ones."""

import logging
from pathlib import Path

import numpy as np
import pytest

from monitoring import window_watcher
from monitoring.window_cutter import AHEAD, BEHIND, WindowCutter
from monitoring.window_watcher import MonitorSpec, Observation, WatcherState, WindowWatcher
from services.platform.streaming.consumer import Message

DATA = Path(__file__).parent / "data" / "before_summaries.reference.npz"
DAY = 86_400.0
BEGIN = 1.65e9 - 1.65e9 % DAY
PER_DAY = 500
MIN_ROWS = 400


class Lake:
    def get(self, path):
        if path.endswith(".json"):
            raise FileNotFoundError(path)
        return DATA.read_bytes()


def clean(days=5, feed="", begin=BEGIN, disorder_s=0.0, seed=0):
    """Observations of whole days, in order of arrival: some event times are a little late."""
    rng = np.random.default_rng(seed)
    time = begin + np.arange(days * PER_DAY) * DAY / PER_DAY
    order = np.argsort(time + rng.uniform(0, disorder_s, len(time)), kind="stable")
    values = rng.normal(size=(len(time), 3))
    return [Observation(float(time[i]), 1, "xgboost:1", values[i], feed=feed) for i in order]


def far(at, count=1, feed=""):
    return [Observation(at, 1, "xgboost:1", np.full(3, 50.0), feed=feed)] * count


def inserted(stream, position, extra):
    return stream[:position] + extra + stream[position:]


def spec(stream):
    return MonitorSpec(
        "fraud", "", lambda m: stream[m.seq - 1], lambda: WindowCutter(DAY, MIN_ROWS, 2_000), None
    )


def watch(stream, state=None, stop=None):
    watcher = WindowWatcher(Lake(), spec(stream), state)
    first = state.seq if state else 0
    watcher.take([Message("", b"", n + 1, 0, "") for n in range(first, stop or len(stream))])
    return list(watcher.closed)


def shape(windows):
    """What a window is, without its place in the stream."""
    return [
        (w.begin, w.result.rows, {n: d.tolist() for n, d in w.result.distances.items()})
        for w in windows
    ]


def aside(reason):
    return window_watcher.PUT_ASIDE.labels(reason)._value.get()


def test_a_clean_stream_is_cut_at_its_days():
    found = watch(clean())
    assert [(w.begin, w.result.rows) for w in found] == [
        (BEGIN + n * DAY, PER_DAY) for n in range(4)
    ]
    # Where requests overtake each other, the windows are the same days.
    late = watch(clean(disorder_s=600.0))
    assert [(w.begin, w.result.rows) for w in late] == [
        (BEGIN + n * DAY, PER_DAY) for n in range(4)
    ]


FAR = {
    "two months ahead": (700, far(BEGIN + 61 * DAY, 3), AHEAD, 3),
    "today": (700, far(1.79e9), AHEAD, 1),
    "the first of all, ahead": (0, far(BEGIN + 61 * DAY, 3), AHEAD, 3),
    "the first of a day, ahead": (PER_DAY, far(BEGIN + 61 * DAY, 3), AHEAD, 3),
    "years behind": (700, far(BEGIN - 1_500 * DAY, 40), BEHIND, 40),
}


@pytest.mark.parametrize(("position", "extra", "reason", "count"), FAR.values(), ids=list(FAR))
def test_far_off_event_times_move_no_window_and_are_counted(position, extra, reason, count, caplog):
    usual = shape(watch(clean()))
    before = aside(reason)
    with caplog.at_level(logging.WARNING):
        found = watch(inserted(clean(), position, extra))
    assert shape(found) == usual
    assert aside(reason) - before == count
    assert f"decisions put aside, in no window: {count} {reason}" in caplog.messages


def test_another_feed_has_windows_of_its_own():
    usual = shape(watch(clean()))
    other = far(BEGIN - 1_500 * DAY, 40, "old.csv")
    assert shape(watch(inserted(clean(), 700, other))) == usual
    a, b = clean(), clean(feed="b", begin=BEGIN + 400 * DAY, seed=5)
    both = watch([one for pair in zip(a, b, strict=True) for one in pair])
    assert shape([w for w in both if w.begin < BEGIN + 100 * DAY]) == usual
    assert shape([w for w in both if w.begin > BEGIN + 100 * DAY]) == shape(watch(b))


def test_a_feed_that_pauses_or_begins_again_loses_nothing_that_is_whole():
    paused = watch(clean(2) + clean(3, begin=BEGIN + 9 * DAY))
    assert [(w.begin, w.result.rows) for w in paused] == [
        (BEGIN + n * DAY, PER_DAY) for n in (0, 1, 9, 10)
    ]
    again = watch(clean(2) + clean(3, begin=BEGIN - 9 * DAY))
    assert [(w.begin, w.result.rows) for w in again] == [
        (BEGIN + n * DAY, PER_DAY) for n in (0, 1, -9, -8)
    ]


def test_a_restart_at_any_window_cuts_the_same_windows():
    a = clean(disorder_s=3_000.0)
    a = inserted(inserted(a, 930, far(BEGIN + 1.9 * DAY, 2)), 1_490, far(BEGIN + 61 * DAY, 3))
    b = clean(feed="b", begin=BEGIN + 400.37 * DAY, disorder_s=3_000.0, seed=5)
    stream = [one for pair in zip(a, b, strict=False) for one in pair]
    whole = watch(stream)
    assert len(whole) >= 6
    for number, closed in enumerate(whole, start=1):
        state = WatcherState.from_bytes(closed.state.to_bytes())
        assert state == closed.state
        resumed = watch(stream, state)
        assert shape(resumed) == shape(whole[number:])
        assert [w.last_seq for w in resumed] == [w.last_seq for w in whole[number:]]
        assert [w.state for w in resumed] == [w.state for w in whole[number:]]


def test_a_checkpoint_from_before_feeds_is_read():
    assert WatcherState.from_bytes(b"123") == WatcherState(123)


def test_a_silent_feed_and_too_many_feeds_are_forgotten(monkeypatch):
    monkeypatch.setattr(window_watcher, "MAX_SILENT", 300)
    before = aside(window_watcher.SILENT)
    found = watch(inserted(clean(), 10, clean(1, feed="short")[:90]))
    assert aside(window_watcher.SILENT) - before == 90
    # The checkpoint does not stay behind it.
    assert found[-1].state.seq > PER_DAY * 4
    monkeypatch.setattr(window_watcher, "MAX_SILENT", 10**6)
    before = aside(window_watcher.MANY_FEEDS)
    names = [one for n in range(20) for one in far(BEGIN, 1, f"feed-{n}")]
    assert shape(watch(inserted(clean(), 10, names))) == shape(watch(clean()))
    assert aside(window_watcher.MANY_FEEDS) > before
