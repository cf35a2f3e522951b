"""`whiteboard`: two ML system-design answers, drawn so that they run."""

import sys

import typer
from rich.markup import escape

from services.cli.lazy import lazy_group
from services.cli.options import DESIGNS, FIRST
from services.cli.output import err

# Modules of this package, each with a function of the same name.
SHARED = (
    "up", "down", "bootstrap", "status", "demo", "simulate", "train", "candidates", "swap",
    "retrain", "night", "compact", "rollback", "history", "evaluate", "audit", "report",
    "scorecard", "describe", "plan", "fault", "damage", "load", "open", "record", "secrets",
)  # fmt: skip

_ENGINES = {"nats": "NATS", "redis": "Redis"}

# Each command with the heading it is listed under.
COMMANDS: dict[str, str | None] = dict.fromkeys(SHARED) | {
    command: f"{design.title} only" for design in DESIGNS.values() for command in design.commands
}

app = typer.Typer(
    name="whiteboard",
    cls=lazy_group(COMMANDS),
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    pretty_exceptions_short=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with [bold]whiteboard demo[/]; walk through a design with "
    f"[bold]whiteboard describe {FIRST.name}[/]; stop it all with [bold]whiteboard down[/].",
)


@app.callback()
def whiteboard() -> None:
    """Make the application a group of commands: it has none of its own."""


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except Exception as error:
        # What the clients of NATS and Redis raise is no OSError.
        client = type(error).__module__.partition(".")[0]
        if client not in _ENGINES:
            raise
        message = f"{error}: {_ENGINES[client]} is away or starting; `whiteboard status`"
        err.print(f"[bold red]error:[/] {escape(message)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
