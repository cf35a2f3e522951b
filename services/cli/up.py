"""`whiteboard up` and `whiteboard down`."""

from typing import Annotated

import typer

from infra.local.supervisor import Supervisor
from services.cli.output import bar, err, fail, say
from services.cli.stack import start_engines, start_services
from services.platform.settings import Settings, settings

SeedOption = Annotated[int, typer.Option(help="Seed of the simulated world and of training.")]
DaysOption = Annotated[int, typer.Option(min=40, help="Days of history to simulate.")]


def up(seed: SeedOption = 7, days: DaysOption = 60) -> None:
    """Start engines and services; on the first start, make history and train champions.

    Examples:
      whiteboard up
      WHITEBOARD_REDIS_PORT=16380 whiteboard up
    """
    bring_up(settings(), seed, days)
    say("[green]up.[/] `whiteboard status` shows what runs where, `whiteboard down` stops it.")


def down() -> None:
    """Stop all services and engines. Data stays: `rm -r .whiteboard` deletes it."""
    with err.status("stopping") as spinner:
        stopped = Supervisor(settings()).stop(lambda name: spinner.update(f"stopping {name}"))
    say("[green]down.[/] Its data is kept." if stopped else "nothing was running.")


def bootstrap_missing(config: Settings, seed: int, days: int) -> bool:
    """Make history and champions where they are missing. Returns whether they were."""
    # Training's libraries take seconds to import; `--help` need not wait for them.
    from services.cv_inspection.simulator import bootstrap as cv
    from services.fraud.retraining.training import TooLittleHistory
    from services.fraud.simulator import bootstrap as fraud

    try:
        made = fraud.bootstrap(config, seed, days, bar)
        return cv.bootstrap(config, seed, bar) or made
    except (ConnectionError, TooLittleHistory) as error:
        fail(str(error))


def bring_up(config: Settings, seed: int, days: int) -> Supervisor:
    """Start everything, showing progress. Ends the command where that fails."""
    with err.status("starting NATS, Redis, SeaweedFS"):
        supervisor = start_engines(config)
    bootstrap_missing(config, seed, days)
    with err.status("starting scorer, inspector and workers"):
        start_services(config, supervisor)
    return supervisor
