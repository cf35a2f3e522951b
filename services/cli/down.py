"""`whiteboard down`."""

from infra.local.supervisor import Supervisor
from services.cli.output import err, say
from services.platform.settings import settings


def down() -> None:
    """Stop all services and engines. Data stays: `rm -r .whiteboard` deletes it."""
    with err.status("stopping") as spinner:
        stopped = Supervisor(settings()).stop(lambda name: spinner.update(f"stopping {name}"))
    say("[green]down.[/] Its data is kept." if stopped else "nothing was running.")
