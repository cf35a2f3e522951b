"""`whiteboard backfill`: rows and state log from the lake, in this process or on Spark."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, only_with
from services.cli.output import bar, fail, out, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.features.spark.run import Backfilled


class Engine(StrEnum):
    """What folds the events."""

    EMBEDDED = "embedded"
    SPARK = "spark"


def _options(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.startswith("spark."):
            raise typer.BadParameter(f"{pair!r} is not of the form spark.name=value")
        found[name] = value
    return found


def backfill(
    design: DesignArgument,
    engine: Annotated[Engine, typer.Option(help="What folds the events.")] = Engine.EMBEDDED,
    master: Annotated[
        str, typer.Option(help="Of Spark: local[N], spark://host:port, k8s://https://host:port.")
    ] = "local[2]",
    memory_mb: Annotated[int, typer.Option(help="Heap of Spark's JVM, megabytes.")] = 1024,
    shards: Annotated[
        int, typer.Option(min=0, max=100_000, help="Partitions of Spark; 0: by the events.")
    ] = 0,
    conf: Annotated[
        list[str] | None, typer.Option(help="An option of Spark, spark.name=value; repeatable.")
    ] = None,
    state_log: Annotated[
        bool, typer.Option("--state-log/--no-state-log", help="Write the state log, too.")
    ] = True,
    compare: Annotated[
        bool, typer.Option("--compare", help="Fold here again, and compare byte by byte.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the feature workers have the rows.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Compute rows of the online store and the state log from all events of the lake.

    The rows are offered to the feature workers, as by `whiteboard rebuild`. Spark needs `make
    spark-setup` and Java 17.

    Examples:
      whiteboard backfill fraud
      whiteboard backfill fraud --engine spark --compare
      whiteboard backfill fraud --engine spark --master spark://10.0.0.7:7077 --json
    """
    only_with(design, "backfill")
    from services.fraud.features.spark.request import SparkRequest
    from services.fraud.features.spark.run import backfill as run

    request = SparkRequest(master, memory_mb, shards, state_log, _options(conf or []))
    with errors_as_messages():
        found = run(settings(), request if engine is Engine.SPARK else None, compare, wait, bar)
    if as_json:
        show_json(found.as_json())
    else:
        _show(found)
    if found.mismatches:
        fail(f"{found.mismatches:,} rows differ from a fold in this process: none was offered")


def _show(found: "Backfilled") -> None:
    shown = table("Backfill", "", "")
    entities = ", ".join(f"{count:,} in {name}" for name, count in found.entities.items())
    shown.add_row("engine", f"{found.engine} {found.master}".strip())
    shown.add_row("events", f"{found.events:,}")
    shown.add_row("entities", entities)
    shown.add_row("seconds", f"{found.seconds:,.1f}, {found.cpu_seconds:,.1f} of a processor")
    shown.add_row("peak memory", f"{found.peak_mb:,} MB, of this machine")
    if found.compared is not None:
        of = found.compared
        text = f"{of.mismatches:,} of {of.entities:,} rows and {of.logged:,} of the state log"
        shown.add_row("mismatches", text)
    out.print(shown)
