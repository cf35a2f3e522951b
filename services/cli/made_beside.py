"""A design's first start in a process of its own, at idle priority."""

import subprocess
import sys
import time

from infra.local.engines import environment
from services.cli.output import bar, fail
from services.platform.design import Design
from services.platform.progress import progress_folder, read_notes
from services.platform.settings import Settings

_LOOK_S, _STOP_S = 0.2, 10.0
_LINES = 8


class MadeBeside:
    """`whiteboard bootstrap DESIGN --idle` beside the command that started it."""

    def __init__(self, config: Settings, design: Design, seed: int, days: int) -> None:
        """Start it. Its output goes to a log, its progress to a file."""
        self._config = config
        self._design = design
        self._log = config.home / "logs" / f"bootstrap-{design.name}.log"
        arguments = ("bootstrap", design.name, "--idle", "--seed", str(seed), "--days", str(days))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment(), "NO_COLOR": "1", "TERM": "dumb"},
            )

    def wait(self) -> None:
        """Show its progress until it has ended. Failure ends the command."""
        with bar(f"{self._design.title}: first model") as step:
            while self._process.poll() is None:
                note = read_notes(progress_folder(self._config.home)).get(self._design.name)
                if note is not None and note.total:
                    step(note.done, note.total)
                time.sleep(_LOOK_S)
        if self._process.returncode:
            lines = self._log.read_text(errors="replace").splitlines()[-_LINES:]
            fail("\n".join([f"{self._design.title}: no first model; {self._log} ends:", *lines]))

    def stop(self) -> None:
        """End it where it still runs; a later start makes what is missing."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
