"""Progress that another process can read."""

import os
from contextlib import contextmanager

import pytest

from services.platform import progress
from services.platform.progress import ProgressNote, noted, read_notes


@contextmanager
def silent(title):
    yield lambda done, total: None


def test_a_note_is_there_while_the_work_is(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_WRITE_EVERY_S", 0.0)
    bar = noted(tmp_path / "progress", "fraud", silent)
    with bar("simulating 60 days") as step:
        assert read_notes(tmp_path / "progress") == {
            "fraud": ProgressNote("simulating 60 days", 0, 0)
        }
        step(7, 60)
        assert read_notes(tmp_path / "progress")["fraud"].done == 7
    assert read_notes(tmp_path / "progress") == {}


def test_work_that_fails_leaves_no_note(tmp_path):
    with pytest.raises(OSError), noted(tmp_path, "fraud", silent)("training"):  # noqa: PT011
        raise OSError
    assert read_notes(tmp_path) == {}


def test_notes_of_killed_work_and_others_files_are_left_out(tmp_path):
    progress._write(tmp_path / "old.json", ProgressNote("training", 1, 2))
    os.utime(tmp_path / "old.json", (0, 0))
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text("[")
    assert read_notes(tmp_path) == {}
    assert read_notes(tmp_path / "missing") == {}
