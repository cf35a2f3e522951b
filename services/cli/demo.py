"""`whiteboard demo`: everything once, and a run report."""

import json
import time
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.options import (
    DESIGNS,
    FIRST,
    HISTORY_DAYS,
    DaysOption,
    JsonOption,
    RateOption,
    SeedOption,
    errors_as_messages,
)
from services.cli.output import bar, fail, json_text, out, show_json, show_table
from services.cli.sigterm import cleanup_at_sigterm
from services.cli.stack import StackStart
from services.platform.design import Design
from services.platform.hooks import Demo, DemoRequest
from services.platform.settings import Settings, settings


def demo(
    rate: RateOption = 100,
    seconds: Annotated[float, typer.Option(min=5, help="How long transactions are live.")] = 60,
    pictures_seconds: Annotated[float, typer.Option(min=5, help="How long images are.")] = 20,
    seed: SeedOption = 7,
    days: DaysOption = HISTORY_DAYS,
    as_json: JsonOption = False,
) -> None:
    """Start the stack, stream transactions and images through it, and print two run reports.

    Exits with 1 when a p95 reaches 50 ms, a feature vector differs from its audit, or a decision
    or an image is lost. The stack keeps running.

    Examples:
      whiteboard demo
      whiteboard demo --rate 400 --seconds 30 --json
    """
    begin = time.monotonic()
    config = settings()
    request = DemoRequest(rate, seconds, pictures_seconds, seed)
    demos: dict[str, Demo] = {}
    found: dict[str, dict[str, Any]] = {}
    with cleanup_at_sigterm(), StackStart(config, seed, days) as start:
        for name, design in DESIGNS.items():
            start.design(design)
            if design.demo is not None:
                demos[name] = design.demo()
                found[name] = _run(config, design, demos[name], request)
    # The first design's figures stand at the top, another's beneath its name.
    figures = found.pop(FIRST.name, {})
    figures |= {"ram_mb": round(start.supervisor.resident_mb()), **found}
    figures["seconds"] = round(time.monotonic() - begin, 1)
    path = config.home / "demo.json"
    path.write_text(json_text(figures))
    measured = [
        (part, figures if name == FIRST.name else figures[name]) for name, part in demos.items()
    ]
    if as_json:
        show_json(figures)
    else:
        for part, one in measured:
            show_table(part.table(one))
        _where(config, figures, path)
    wrong = [failure for part, one in measured for failure in part.failures(one)]
    if wrong:
        fail("; ".join(wrong))


def _run(config: Settings, design: Design, part: Demo, request: DemoRequest) -> dict[str, Any]:
    with errors_as_messages():
        figures = part.run(config, request, bar)
        with urllib.request.urlopen(f"{design.http.url(config)}/readyz", timeout=5) as answer:
            return {**figures, "model": str(json.load(answer)["model"])}


def _where(config: Settings, figures: dict[str, Any], path: Path) -> None:
    from rich.panel import Panel

    apps = "".join(f"{d.http.name:<20} {d.http.url(config)}/docs\n" for d in DESIGNS.values())
    out.print(
        Panel.fit(
            f"took {figures['seconds']:.0f} s; all processes use {figures['ram_mb']:,} MB\n"
            f"{apps}"
            f"streams              http://{config.host}:{config.nats_http_port}/jsz?streams=1\n"
            f"all figures          {path}\n"
            f"the designs          whiteboard describe {'|'.join(DESIGNS)}\n"
            "stop it              whiteboard down   (.venv/bin/whiteboard after `make demo`)",
            title="still running",
        )
    )
