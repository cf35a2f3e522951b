"""`whiteboard`: two ML system-design answers, drawn so that they run."""

import sys
from importlib import import_module

import typer
from rich.markup import escape

from services.cli.options import DESIGNS, FIRST
from services.cli.output import err

# Modules of this package, each with a function of the same name.
SHARED = (
    "up", "down", "bootstrap", "status", "demo", "simulate", "train", "candidates", "swap",
    "retrain", "night", "compact", "rollback", "history", "evaluate", "audit", "report",
    "scorecard", "describe", "plan", "fault", "load", "open", "record", "secrets",
)  # fmt: skip

app = typer.Typer(
    name="whiteboard",
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    pretty_exceptions_short=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with [bold]whiteboard demo[/]; walk through a design with "
    f"[bold]whiteboard describe {FIRST.name}[/]; stop it all with [bold]whiteboard down[/].",
)


def _mount(command: str, panel: str | None = None) -> None:
    function = getattr(import_module(f"services.cli.{command}"), command)
    app.command(command, rich_help_panel=panel)(function)


for _command in SHARED:
    _mount(_command)
for _design in DESIGNS.values():
    for _command in _design.commands:
        _mount(_command, f"{_design.title} only")


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except Exception as error:
        # What NATS' client raises while JetStream starts is no OSError.
        if not type(error).__module__.startswith("nats."):
            raise
        message = f"{error}: NATS is away or starting; `whiteboard status`"
        err.print(f"[bold red]error:[/] {escape(message)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
