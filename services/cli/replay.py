"""`whiteboard replay`: a file of real transactions through the running stack."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from services.cli.options import (
    DesignArgument,
    JsonOption,
    RateOption,
    errors_as_messages,
    only_with,
)
from services.cli.output import bar, fail, say
from services.cli.simulate import show
from services.platform.hooks import Figures
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.ingestion.replay import LabelCounts
    from services.fraud.ingestion.transaction_file import TransactionFile
    from services.fraud.simulator.replay import ReplayRequest

_MAX_SHOWN = 3


def replay(
    design: DesignArgument,
    file: Annotated[Path, typer.Option(help="Parquet or CSV.", exists=True, dir_okay=False)],
    mapping: Annotated[
        str, typer.Option(help="YAML that names the columns, or one that ships: handbook.")
    ] = "handbook",
    rate: RateOption = 200,
    most: Annotated[int, typer.Option(min=1, help="Stop after this many.")] = 12_000,
    since: Annotated[str, typer.Option(help="Begin at this date, e.g. 2018-08-08.")] = "",
    run: Annotated[
        str, typer.Option(help="Replay as a data set of its own: this name goes before every id.")
    ] = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the last replay of this file stopped.")
    ] = False,
    any_time: Annotated[
        bool, typer.Option("--any-time", help="Keep rows that lie far in time from the rest.")
    ] = False,
    rejected: Annotated[
        Path | None, typer.Option(help="Write the rows that are left out, as CSV.", dir_okay=False)
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read the whole file and send nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Stream a file of transactions through the scorer and the stream, with its labels.

    Examples:
      whiteboard replay fraud --file transactions.parquet --mapping handbook --most 2000
      whiteboard replay fraud --file mine.csv --mapping mine.yaml --rate 100
      whiteboard replay fraud --file mine.csv --mapping mine.yaml --check --rejected rejected.csv
      whiteboard replay fraud --file mine.csv --mapping mine.yaml --run again
    """
    only_with(design, "replay")
    from services.fraud.ingestion.replay import LabelCounts
    from services.fraud.simulator.replay import ReplayRequest
    from services.fraud.simulator.replay import check as read_all

    counts = LabelCounts()
    with errors_as_messages(), _opened(file, mapping, run, any_time, rejected) as source:
        said = _say_left_out(source, 0)
        if check:
            figures: Figures = {**read_all(source, counts), "failures": 0}
            sent = figures["transactions"]
        else:
            figures = _send(source, ReplayRequest(rate, most, _time(since), resume), counts)
            sent = figures["requests"]
        _say_left_out(source, said)
    show({**figures, **_file_figures(source, counts)}, as_json)
    if not sent:
        fail(_nothing_sent(source))


def _send(source: "TransactionFile", request: "ReplayRequest", counts: "LabelCounts") -> Figures:
    """Play the file into the running stack."""
    import uvloop

    from services.fraud.evaluation.run_report import traffic_figures
    from services.fraud.review.live import present_costs
    from services.fraud.simulator.replay import replay as send

    config = settings()
    costs = asyncio.run(present_costs(config))
    with bar(f"replaying {source.name}") as step:
        report = uvloop.run(send(config, source, request, counts, step))
    if report.duplicates:
        say(f"[yellow]counted once[/] {report.duplicates:,} events whose ids the stream had")
    return {**traffic_figures(report, costs), "duplicate_events": report.duplicates}


def _file_figures(source: "TransactionFile", counts: "LabelCounts") -> Figures:
    """What reading the file found."""
    return {
        "labels_unknown": counts.unknown,
        "labels_not_due": counts.not_due,
        "duplicate_rows": source.duplicates,
        "rejected_rows": source.rejections.count,
        "rejected_by_field": dict(source.rejections.by_field),
        "rejected": source.rejections.examples,
    }


@contextmanager
def _opened(
    file: Path, mapping: str, run: str, any_time: bool, rejected: Path | None
) -> "Iterator[TransactionFile]":
    """The file, read by its mapping, with a file for the rows that are left out."""
    from services.fraud.ingestion.mapping import FileMapping
    from services.fraud.ingestion.rejections import Rejections
    from services.fraud.ingestion.transaction_file import TransactionFile

    read_by = FileMapping.load(mapping)
    if run:
        read_by = read_by.for_run(run)
    with ExitStack() as stack:
        output = rejected and stack.enter_context(rejected.open("w", encoding="utf-8", newline=""))
        rejections = Rejections(file.name, output=output or None)
        yield stack.enter_context(TransactionFile(file, read_by, rejections, any_time))


def _time(text: str) -> "datetime | None":
    """UTC, unless the text has a zone."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--since {text}: write a date such as 2018-08-08") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _say_left_out(source: "TransactionFile", shown: int) -> int:
    """Print the next rows left out, after `shown` of them. Returns their number so far."""
    rejections = source.rejections
    examples = rejections.examples[shown : shown + _MAX_SHOWN]
    for example in examples:
        say(f"[yellow]left out[/] {escape(example)}")
    if more := rejections.count - shown - len(examples):
        say(f"[yellow]left out[/] {more:,} more rows; --rejected FILE lists them")
    for example in source.duplicate_examples if not shown else []:
        say(f"[yellow]counted once[/] {escape(example)}")
    return rejections.count


def _nothing_sent(source: "TransactionFile") -> str:
    rejections = source.rejections
    if rejections.count:
        return (
            f"no transaction was sent; {rejections.count:,} rows were left out, the first: "
            f"{rejections.examples[0]}"
        )
    return f"no transaction was sent: {source.name} has none left that were asked for"
