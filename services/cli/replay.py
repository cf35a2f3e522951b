"""`whiteboard replay`: a file of real transactions through the running stack."""

from pathlib import Path
from typing import Annotated

import typer
import uvloop

from services.cli.demo import RateOption
from services.cli.designs import DesignArgument, fraud_alone
from services.cli.output import JsonOption, bar, fail, say
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
    fraud_alone(design, "`whiteboard train cv --data FOLDER` and `batch cv` take files")
    from services.fraud.evaluation import run_report as scoreboard
    from services.fraud.ingestion.replay import Mapping, happenings
    from services.fraud.simulator.run import replay as run

    try:
        rejected: list[str] = []
        world = happenings(file, Mapping.load(mapping), since or None, rejected)
        with bar(f"replaying {file.name}") as step:
            report = uvloop.run(run(settings(), world, rate, most, step))
    except (ConnectionError, ValueError, OSError) as error:
        fail(str(error))
    figures = {
        **scoreboard.latency(report),
        **scoreboard.quality(report),
        "requests": report.requests,
        "labels": report.labels,
        "failures": report.failures,
        "degraded": report.degraded,
        "rejected_rows": len(rejected),
        "errors": report.errors,
    }
    for reason in rejected[:3]:
        say(f"[yellow]left out[/] {reason}")
    show(figures, as_json)
