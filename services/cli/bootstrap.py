"""`whiteboard bootstrap`."""

from typing import Annotated

import typer

from services.cli.options import DESIGNS, HISTORY_DAYS, DaysOption, SeedOption, design_by_name
from services.cli.output import say
from services.cli.stack import bootstrap_missing
from services.platform.design import Design
from services.platform.settings import settings


def bootstrap(
    design: Annotated[
        Design | None,
        typer.Argument(parser=design_by_name, metavar="|".join(DESIGNS), help="All by default."),
    ] = None,
    seed: SeedOption = 7,
    days: DaysOption = HISTORY_DAYS,
    idle: Annotated[
        bool, typer.Option("--idle", help="Leave the processor to everything else.")
    ] = False,
) -> None:
    """Make history and train a first champion, where they are missing. The engines must run.

    `whiteboard up` does this too; use this where the engines are started otherwise.

    Examples:
      whiteboard bootstrap
      whiteboard bootstrap cv --idle
      docker compose run --rm bootstrap whiteboard bootstrap
    """
    designs = list(DESIGNS.values()) if design is None else [design]
    made = bootstrap_missing(settings(), designs, seed, days, idle)
    say("[green]ready.[/]" if made else "history and champion are there already.")
