"""`whiteboard down`."""

from rich.markup import escape

from infra.local.supervisor import Supervisor
from services.cli.output import err, say
from services.platform.settings import settings


def down() -> None:
    """Stop all services and engines. Data stays: `rm -r .whiteboard` deletes it."""
    config = settings()
    with err.status("stopping") as spinner:
        stopped = Supervisor(config).stop(lambda name: spinner.update(f"stopping {name}"))
    if stopped:
        say("[green]down.[/] Its data is kept.")
    else:
        say(f"nothing was running in {escape(str(config.home))}.")
