"""`whiteboard replay`: a file of real transactions through the running stack."""

from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import (
    DesignArgument,
    JsonOption,
    RateOption,
    errors_as_messages,
    only_with,
)
from services.cli.output import bar, say
from services.cli.simulate import show
from services.platform.settings import settings


def replay(
    design: DesignArgument,
    file: Annotated[Path, typer.Option(help="Parquet or CSV.", exists=True, dir_okay=False)],
    mapping: Annotated[
        str, typer.Option(help="YAML that names the columns, or one that ships: handbook.")
    ] = "handbook",
    rate: RateOption = 200,
    most: Annotated[int, typer.Option(min=1, help="Stop after this many.")] = 12_000,
    since: Annotated[str, typer.Option(help="Begin at this date, e.g. 2018-08-08.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Stream a file of transactions through the scorer and the stream, with its labels.

    Examples:
      whiteboard replay fraud --file transactions.parquet --mapping handbook --most 2000
      whiteboard replay fraud --file mine.csv --mapping mine.yaml --rate 100
    """
    only_with(design, "replay")
    import uvloop

    from services.fraud.evaluation import run_report
    from services.fraud.ingestion.replay import FileMapping, replayed_events
    from services.fraud.simulator.run import replay as run

    rejected: list[str] = []
    with errors_as_messages():
        events = replayed_events(file, FileMapping.load(mapping), since or None, rejected)
        with bar(f"replaying {file.name}") as step:
            report = uvloop.run(run(settings(), events, rate, most, step))
    for reason in rejected[:3]:
        say(f"[yellow]left out[/] {reason}")
    figures = {
        **run_report.latency(report),
        **run_report.quality(report),
        "requests": report.requests,
        "labels": report.labels,
        "failures": report.failures,
        "degraded": report.degraded,
        "rejected_rows": len(rejected),
        "errors": report.errors,
    }
    show(figures, as_json)
