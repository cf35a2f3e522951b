"""`whiteboard report`: the newest decisions beside the champion's training data."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import DesignArgument, JsonOption, hook
from services.cli.output import bar, fail, say, show_json
from services.platform.settings import settings


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
    newest = hook(design.newest, design, "report")
    from monitoring.reference import Reference
    from monitoring.report import write
    from services.platform.models.names import reference_path
    from services.platform.storage.lake import Lake, event_time_before
    from services.platform.storage.reports import report_path

    config, lake = settings(), Lake(settings())
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
    path = path or config.home / "reports" / design.name / f"{name}.html"
    try:
        with bar("reading decisions"):
            where = event_time_before(before.replace(tzinfo=UTC)) if before else None
            version, window = newest(lake, last, where)
            reference = Reference.from_bytes(lake.get(reference_path(design.name, version)))
        with bar("writing the report"):
            write(reference, window, f"{design.name}, version {version}", path)
            lake.put(report_path(design.name, name), path.read_bytes())
    except FileNotFoundError as error:
        fail(f"{error}: this model has no reference; train a new one")
    except (OSError, ValueError) as error:
        fail(f"{error}: is the stack up, and are there decisions?")
    url = f"{design.http.url(config)}/reports/{name}"
    if as_json:
        show_json({"path": str(path), "url": url, "decisions": len(window), "version": version})
    else:
        say(f"{len(window):,} decisions of version {version}: {url}, {path.resolve()}")
