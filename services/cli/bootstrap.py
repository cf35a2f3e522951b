"""`whiteboard bootstrap`."""

from services.cli.output import say
from services.cli.up import DaysOption, SeedOption, bootstrap_missing
from services.platform.settings import settings


def bootstrap(seed: SeedOption = 7, days: DaysOption = 60) -> None:
    """Make history and train a first champion, where they are missing. The engines must run.

    `whiteboard up` does this too; alone it serves where others start the engines.

    Examples:
      whiteboard bootstrap
      docker compose run --rm bootstrap whiteboard bootstrap
    """
    made = bootstrap_missing(settings(), seed, days)
    say("[green]ready.[/]" if made else "history and champion are there already.")
