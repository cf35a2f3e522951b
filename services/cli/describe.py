"""`whiteboard describe`: the design, step by step."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from services.cli.options import FIRST, DesignArgument, JsonOption
from services.cli.output import out, show_json
from services.platform.design import Design
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.design import Step


def describe(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Walk through a design's eight steps: what was decided, why, where, and what it measured.

    Examples:
      whiteboard describe fraud
      whiteboard describe cv --json
    """
    steps = design.steps(_measured(design))
    if as_json:
        every = [asdict(step) for step in steps]
        show_json({"design": design.name, "title": design.title, "steps": every})
        return
    out.rule(f"[bold]{design.title}")
    for step in steps:
        _show(step)


def _measured(design: Design) -> dict[str, Any]:
    """The figures of the last demo, the first design's at the top, another's beneath its name.

    Those of the last federation are beneath `federated`.
    """
    kept = settings().home / "demo.json"
    figures: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    table = settings().home / "federated" / "table.json"
    if table.exists():
        figures["federated"] = json.loads(table.read_text())
    return figures if design is FIRST else figures.get(design.name, {})


def _show(step: "Step") -> None:
    from rich.panel import Panel

    if not step.built:
        out.print(f"[dim]{step.number} {step.title}: {step.decision}[/]")
        return
    why = f"\n\n{step.why}" if step.why else ""
    figure = f"\n\n[green]{step.figure}[/]" if step.figure else ""
    body = f"[bold]{step.decision}[/]{why}{figure}"
    title = f"{step.number} {step.title}"
    out.print(Panel(body, title=title, title_align="left", subtitle=step.file, width=90))
