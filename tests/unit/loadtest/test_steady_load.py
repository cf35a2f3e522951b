"""A load at one of several rates."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from loadtest import run
from services.designs import DESIGNS
from services.platform.settings import Settings


def test_a_stack_that_answers_nothing_is_named_at_once(monkeypatch, tmp_path):
    errors = {"ConnectionRefusedError": 90, "503": 10}
    failed = run.Load(100.0, 100, 100, errors, 1.0, 1.0, 1.0, Path(), Path())
    monkeypatch.setattr(run, "run", lambda *_: failed)
    config = Settings(home=tmp_path)
    with pytest.raises(RuntimeError, match="every request failed, most of them: Connection"):
        run.measured_knee(config, DESIGNS[0], 500, 50.0, lambda _: nullcontext(lambda *_: None))
