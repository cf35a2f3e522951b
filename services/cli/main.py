"""`whiteboard`: two ML system-design answers, drawn so that they run."""

import sys

import typer

from services.cli import (
    audit,
    bootstrap,
    candidates,
    demo,
    describe,
    drill,
    evaluate,
    fault,
    load,
    monitor,
    pictures,
    replay,
    simulate,
    status,
    swap,
    train,
    up,
)
from services.cli.output import err

app = typer.Typer(
    name="whiteboard",
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    pretty_exceptions_short=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with [bold]whiteboard demo[/]; walk through a design with "
    "[bold]whiteboard describe fraud[/]; stop it all with [bold]whiteboard down[/].",
)
app.command("up")(up.up)
app.command("down")(up.down)
app.command("bootstrap")(bootstrap.bootstrap)
app.command("status")(status.status)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("replay")(replay.replay)
app.command("train")(train.train)
app.command("candidates")(candidates.candidates)
app.command("swap")(swap.swap)
app.command("retrain")(swap.retrain)
app.command("night")(swap.night)
app.command("rollback")(swap.rollback)
app.command("history")(swap.history)
app.command("evaluate")(evaluate.evaluate)
app.command("audit")(audit.audit)
app.command("report")(monitor.report)
app.command("scorecard")(monitor.scorecard)
app.command("drill")(drill.drill)
app.command("describe")(describe.describe)
app.command("fault")(fault.fault)
app.command("load")(load.load)
app.command("bench")(load.bench)
app.command("batch")(pictures.batch)
app.command("reconcile")(pictures.reconcile)
app.command("edge")(pictures.edge)


def main() -> None:
    """Entry point of the command."""
    try:
        app()
    except Exception as error:
        # What NATS' client raises while JetStream starts is no OSError.
        if not type(error).__module__.startswith("nats."):
            raise
        err.print(f"[bold red]error:[/] {error}: NATS is away or starting; `whiteboard status`")
        sys.exit(1)


if __name__ == "__main__":
    main()
