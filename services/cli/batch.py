"""`whiteboard batch`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, only_with
from services.cli.output import bar, fail, say, show_json
from services.platform.settings import settings


def batch(
    design: DesignArgument,
    manifest: Annotated[str, typer.Option(help="CSV of Bucket,Key[,VersionId]: file or s3://.")],
    report: Annotated[Path, typer.Option(help="Report CSV; what succeeded is not done again.")] = (
        Path("report.csv")
    ),
    workers: Annotated[int, typer.Option(min=1, max=64, help="Images at once.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Inspect every object of a manifest. Interrupted, it resumes where it stopped.

    Exits with 2 if some objects failed; the report says which, and why.

    Examples:
      whiteboard batch cv --manifest lot-17.csv
      whiteboard batch cv --manifest s3://lake/manifests/lot-17.csv --report lot-17-report.csv
    """
    only_with(design, "batch")
    from services.cv_inspection.serving.batch import read_manifest, run

    with errors_as_messages():
        try:
            rows = read_manifest(settings(), manifest)
            with bar("inspecting") as step:
                done = run(settings(), rows, report, workers, step)
        except FileNotFoundError as error:
            fail(f"not found: {error}")
    if as_json:
        show_json(asdict(done))
    else:
        say(f"{done.succeeded} inspected, {done.failed} failed, {done.resumed} done before")
        say(f"report: {done.report}")
    if done.failed:
        raise typer.Exit(2)
