"""`whiteboard up`."""

from services.cli.options import HISTORY_DAYS, DaysOption, SeedOption
from services.cli.output import say
from services.cli.stack import bring_up
from services.platform.settings import settings


def up(seed: SeedOption = 7, days: DaysOption = HISTORY_DAYS) -> None:
    """Start engines and services; on the first start, make history and train champions.

    Examples:
      whiteboard up
      WHITEBOARD_REDIS_PORT=16380 whiteboard up
    """
    bring_up(settings(), seed, days)
    say("[green]up.[/] `whiteboard status` shows what runs where, `whiteboard down` stops it.")
