"""Progress callbacks: long work reports how far it is, without knowing what displays it.

Progress can be noted in a file too, where another process and the walkthrough read it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

# Called with (done, total).
ProgressCallback = Callable[[int, int], None]
# Opens a progress bar with a title and yields its callback.
ProgressBar = Callable[[str], AbstractContextManager[ProgressCallback]]

_WRITE_EVERY_S = 0.25
# A file that was not written for longer is of work that was killed.
_STALE_S = 120.0


class ProgressNote(NamedTuple):
    """What work does now: `done` of `total` steps; total 0 where that is not known."""

    title: str
    done: int
    total: int


def progress_folder(home: Path) -> Path:
    """Where the notes of a home's first start are."""
    return home / "progress"


def noted(folder: Path, name: str, bar: ProgressBar) -> ProgressBar:
    """A progress bar whose state is in a file as well, while it is open.

    Args:
        folder: Of the notes; made where it is missing.
        name: Of the work.
        bar: What displays it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"

    @contextmanager
    def opened(title: str) -> Iterator[ProgressCallback]:
        written = 0.0
        _write(path, ProgressNote(title, 0, 0))

        def both(done: int, total: int) -> None:
            nonlocal written
            step(done, total)
            if time.monotonic() - written > _WRITE_EVERY_S:
                written = time.monotonic()
                _write(path, ProgressNote(title, done, total))

        try:
            with bar(title) as step:
                yield both
        finally:
            path.unlink(missing_ok=True)

    return opened


def read_notes(folder: Path) -> dict[str, ProgressNote]:
    """By name, the work that is under way."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            if time.time() - path.stat().st_mtime < _STALE_S:
                found[path.stem] = ProgressNote(*json.loads(path.read_text()))
    return found


def _write(path: Path, note: ProgressNote) -> None:
    written = path.with_suffix(".new")
    written.write_text(json.dumps(note))
    os.replace(written, path)
