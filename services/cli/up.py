"""`whiteboard up`."""

from typing import Annotated

import typer

from services.cli.options import DESIGNS, HISTORY_DAYS, DaysOption, SeedOption, errors_as_messages
from services.cli.output import say
from services.cli.stack import bring_up, change_count
from services.platform.design import Process
from services.platform.settings import settings

_SHARED = "feature-worker"


def up(
    seed: SeedOption = 7,
    days: DaysOption = HISTORY_DAYS,
    feature_workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that share the features of fraud by shard, also of a running stack; "
            "without it, as many as before.",
        ),
    ] = None,
) -> None:
    """Start engines and services; on the first start, make history and train champions.

    Examples:
      whiteboard up
      whiteboard up --feature-workers 3
      WHITEBOARD_REDIS_PORT=16380 whiteboard up
    """
    config = settings()
    if feature_workers is None:
        bring_up(config, seed, days)
    else:
        process = _shared()
        with errors_as_messages():
            assert process.instances is not None
            process.instances.check(config, feature_workers)
        supervisor = bring_up(config, seed, days)
        change_count(config, supervisor, process, feature_workers)
        say(f"{feature_workers} of {process.name} share its work.")
    say("[green]up.[/] `whiteboard status` shows what runs where, `whiteboard down` stops it.")


def _shared() -> Process:
    """The process whose work several share. Ends the command where no design has it."""
    for design in DESIGNS.values():
        for process in design.processes:
            if process.name == _SHARED:
                return process
    raise typer.BadParameter(f"no design has a {_SHARED}")
