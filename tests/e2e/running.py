"""The stack that runs with the present settings, where WHITEBOARD_E2E_RUNNING is set."""

import os
import subprocess
import sys

from infra.local.engines import environment
from services.platform.settings import Settings, settings

IS_WANTED = bool(os.environ.get("WHITEBOARD_E2E_RUNNING"))


class Running:
    """What tests ask of an `Installation`, of a stack that was started by hand."""

    def settings(self) -> Settings:
        return settings()

    def finished(self, arguments: list[str], seconds: float) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "services.cli.main", *arguments]
        return subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=seconds
        )
