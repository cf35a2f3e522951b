"""`whiteboard scorecard` and `whiteboard report`: how good the monitors are, and what they see."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from services.cli.designs import DesignArgument, DesignName, module
from services.cli.output import JsonOption, bar, fail, out, say, show_json, table
from services.platform.settings import settings


def scorecard(
    design: DesignArgument = DesignName.fraud,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds; minutes each.")] = 1,
    drift: Annotated[list[str] | None, typer.Option(help="This drift alone; repeatable.")] = None,
    strength: Annotated[
        list[float] | None, typer.Option(min=0.01, max=1, help="This strength alone; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Inject every drift the simulator knows, and none, and count what each monitor makes of it.

    Needs no stack for fraud; for cv the champion is asked.

    Examples:
      whiteboard scorecard fraud --seeds 3
      whiteboard scorecard fraud --drift covariate --strength 0.5 --seeds 15
      whiteboard scorecard cv --json
    """
    from monitoring.drift_benchmark import STRENGTHS, score

    made = module(design, "evaluation.drift_benchmark")
    unknown = set(drift or ()) - set(made.DRIFTS)
    if unknown:
        known = ", ".join(made.DRIFTS)
        raise typer.BadParameter(f"no drift {unknown.pop()!r}: choose from {known}")
    injected = [(d, s) for d in drift or made.DRIFTS for s in strength or STRENGTHS]
    with bar("drifting on purpose") as step:
        wanted = list(range(seeds))
        if design is DesignName.cv:
            streams = made.streams(_champion(), wanted, injected, step)
        else:
            streams = made.streams(wanted, injected, step)
        found = score(streams)
    if as_json:
        show_json(found.as_json())
        return
    _show(found)


def _champion() -> Any:
    from services.cv_inspection.serving.model import DESIGN, read_model
    from services.platform.models.served_model import champion_path
    from services.platform.storage.lake import Lake

    try:
        return read_model(Lake(settings()).get(champion_path(DESIGN)))
    except OSError as error:
        fail(f"no champion to ask ({error}): `whiteboard up`")


def _show(found: Any) -> None:
    drifts = list(dict.fromkeys((r.drift, r.strength) for r in found.rows))
    detectors = list(dict.fromkeys(r.detector for r in found.rows))
    title = "Windows until a drift is seen (share missed; - for never)"
    # Spaces, for a terminal of eighty columns to break names at.
    board = table(title, "drift", "strength", *(d.replace("_", " ") for d in detectors))
    cells = {(r.detector, r.drift, r.strength): r for r in found.rows}
    for drift, strength in drifts:
        row = [cells[(d, drift, strength)] for d in detectors]
        board.add_row(drift, f"{strength:.2f}", *(_cell(r.delay_windows, r.miss_rate) for r in row))
    out.print(board)
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in found.false_alarms_per_1000.items())
    out.print(f"false alarms in 1,000 clean windows ({found.clean_windows:,} seen): {rates}")


def _cell(delay: float, missed: float) -> str:
    if missed == 1.0:
        return "[dim]-[/]"
    return f"{delay:.1f}" if missed == 0.0 else f"{delay:.1f} [yellow]({missed:.0%})[/]"


def report(
    design: DesignArgument,
    last: Annotated[int, typer.Option(min=50, help="Decisions in the window, the newest.")] = 5_000,
    before: Annotated[
        datetime | None, typer.Option(help="The newest before this event time, UTC.")
    ] = None,
    path: Annotated[Path | None, typer.Option(help="Where to; reports/ of the home.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write Evidently's report of the newest decisions against the champion's training data.

    Examples:
      whiteboard report fraud
      whiteboard report fraud --before 2022-05-03 --last 12000
      whiteboard report cv --last 400
    """
    from monitoring import report as made
    from monitoring.reference import Reference
    from services.platform.models.served_model import reference_path
    from services.platform.storage.lake import Lake, until
    from services.platform.storage.reports import report_path

    config, lake = settings(), Lake(settings())
    try:
        with bar("reading decisions"):
            where = until(before.replace(tzinfo=UTC)) if before else None
            version, window = module(design, "monitoring.newest").newest(lake, last, where)
            known = Reference.from_bytes(lake.get(reference_path(design.value, version)))
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
        path = path or config.home / "reports" / design.value / f"{name}.html"
        with bar("writing the report"):
            made.write(known, window, f"{design.value}, version {version}", path)
            lake.put(report_path(design.value, name), path.read_bytes())
    except FileNotFoundError as error:
        fail(f"{error}: no reference is kept for this model; train one anew")
    except (OSError, ValueError) as error:
        fail(f"{error}: is the stack up, and has it decided anything?")
    url = f"{config.scorer if design is DesignName.fraud else config.inspector}/reports/{name}"
    if as_json:
        show_json({"path": str(path), "url": url, "decisions": len(window), "version": version})
    else:
        say(f"{len(window):,} decisions of version {version}: {url}, {path.resolve()}")
