"""`whiteboard bootstrap`."""

from services.cli.options import HISTORY_DAYS, DaysOption, SeedOption
from services.cli.output import say
from services.cli.stack import bootstrap_missing
from services.platform.settings import settings


def bootstrap(seed: SeedOption = 7, days: DaysOption = HISTORY_DAYS) -> None:
    """Make history and train a first champion, where they are missing. The engines must run.

    `whiteboard up` does this too; use this where the engines are started otherwise.

    Examples:
      whiteboard bootstrap
      docker compose run --rm bootstrap whiteboard bootstrap
    """
    made = bootstrap_missing(settings(), seed, days)
    say("[green]ready.[/]" if made else "history and champion are there already.")
