"""The watcher with references from before a statistic, and with none."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from monitoring.window_cutter import WindowCutter
from monitoring.window_watcher import MonitorSpec, Observation, WindowWatcher
from services.platform.models.names import reference_path
from services.platform.streaming.consumer import Message

DATA = Path(__file__).parent / "data"
ROWS = 120


class StoredObjects(dict):
    """A lake's objects in memory."""

    def get(self, path):
        if path not in self:
            raise FileNotFoundError(path)
        return self[path]


def observe(message):
    values = np.random.default_rng(message.seq).normal(size=3)
    return Observation(float(message.seq), 1, "xgboost:1", values)


def take(objects, windows, observe=observe):
    spec = MonitorSpec("fraud", "", observe, lambda: WindowCutter(0.0, ROWS, ROWS), None)
    watcher = WindowWatcher(objects, spec)
    watcher.take([Message("", b"", seq + 1, 0, "") for seq in range(windows * ROWS + 1)])
    return list(watcher.closed)


def test_a_statistic_that_an_old_reference_lacks_is_logged_once_and_skipped(caplog):
    data = (DATA / "before_summaries.reference.npz").read_bytes()
    with caplog.at_level(logging.WARNING):
        closed = take(StoredObjects({reference_path("fraud", 1): data}), 3)
    assert len(closed) == 3
    assert {name for one in closed for name in one.result.distances} == {"psi", "ks", "missing"}
    [line] = caplog.messages
    assert line == "version 1 was trained before wasserstein: skipped for this model"


def test_a_model_without_a_reference_closes_no_windows(caplog):
    with caplog.at_level(logging.WARNING):
        assert take(StoredObjects(), 2) == []
    assert caplog.messages[0] == "version 1 has no reference: its drift is not monitored"


def test_a_window_has_the_models_label_though_its_fallback_decided_first():
    def observed(message):
        found = observe(message)
        if message.seq > 5:
            return found
        return replace(found, model="fallback:1", unread=np.ones(3, bool))

    data = (DATA / "before_summaries.reference.npz").read_bytes()
    [closed] = take(StoredObjects({reference_path("fraud", 1): data}), 1, observed)
    assert closed.model == "xgboost:1"
