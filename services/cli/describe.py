"""`whiteboard describe`: the design, box by box, as one would tell it."""

import json
from dataclasses import asdict
from typing import Any

from rich.panel import Panel

from services.cli.designs import DesignArgument, DesignName, wiring
from services.cli.output import JsonOption, out, show_json
from services.platform.settings import settings


def describe(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Walk through a design's eight steps: what was decided, why, where, and what it measured.

    Examples:
      whiteboard describe fraud
      whiteboard describe cv --json
    """
    told = wiring(design)
    kept = settings().home / "demo.json"
    measured: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    # The demo's figures are fraud's, the other design's lie beneath its name.
    steps = told.steps(measured if design is DesignName.fraud else measured.get(told.name, {}))
    if as_json:
        every = [asdict(step) for step in steps]
        show_json({"design": told.name, "title": told.title, "steps": every})
        return
    out.rule(f"[bold]{told.title}")
    for step in steps:
        if not step.built:
            out.print(f"[dim]{step.number} {step.title}: {step.decision}[/]")
            continue
        body = (
            f"[bold]{step.decision}[/]\n\n{step.why}" if step.why else f"[bold]{step.decision}[/]"
        )
        figure = f"\n\n[green]{step.figure}[/]" if step.figure else ""
        title = f"{step.number} {step.title}"
        out.print(
            Panel(body + figure, title=title, title_align="left", subtitle=step.file, width=90)
        )
