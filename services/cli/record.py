"""`whiteboard record`."""

import json
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import errors_as_messages
from services.cli.output import bar, say
from services.platform.design import WALKTHROUGH
from services.platform.settings import settings

# A busy machine's page answers late.
_PATIENCE_S = 60.0


def record(
    seconds: Annotated[int, typer.Option(min=5, max=600, help="How long.")] = 60,
    file: Annotated[Path | None, typer.Option(help="Default: recording.html in the home.")] = None,
) -> None:
    """Record the walkthrough as one HTML file that plays without a stack.

    Examples:
      whiteboard record
      whiteboard record --seconds 30 --file docs/recording.html
    """
    from services.walkthrough.recording import page

    config = settings()
    url = WALKTHROUGH.url(config)
    with errors_as_messages():
        with urllib.request.urlopen(f"{url}/api/designs", timeout=_PATIENCE_S) as answer:
            designs = json.load(answer)
        ticks = _ticks(f"{url}/api/stream", seconds)
    target = file or config.home / "recording.html"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    target.write_text(page(designs, ticks, at), encoding="utf-8")
    say(f"recorded {len(ticks)} s in {target} ({target.stat().st_size / 1e3:,.0f} kB)")


def _ticks(url: str, seconds: int) -> list[dict[str, object]]:
    """The live state of some seconds."""
    ticks: list[dict[str, object]] = []
    end = time.monotonic() + seconds + _PATIENCE_S
    with urllib.request.urlopen(url, timeout=_PATIENCE_S) as stream, bar("recording") as step:
        while len(ticks) < seconds and time.monotonic() < end:
            line = stream.readline()
            if line.startswith(b"data:"):
                ticks.append(json.loads(line.removeprefix(b"data:")))
                step(len(ticks), seconds)
    return ticks
