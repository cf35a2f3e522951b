"""`whiteboard fault`: make a process fail as the docs discuss, and bring it back."""

import time
from typing import Annotated

import typer

from infra.local.faults import Kind, mend, strike
from infra.local.supervisor import Supervisor
from services.cli.options import FIRST
from services.cli.output import bar, fail, say
from services.platform.settings import settings

_NAMES = f"redis, nats, seaweedfs, {FIRST.http.name}, ..."


def fault(
    process: Annotated[str, typer.Argument(help=_NAMES)],
    kind: Annotated[
        Kind,
        typer.Option(help="kill: -9, and it is restarted; hang: stopped; away: down for a while."),
    ] = Kind.away,
    seconds: Annotated[float, typer.Option(min=1, help="How long it hangs or is away.")] = 10,
) -> None:
    """Make a process of the running stack fail, and bring it back.

    Run it beside `whiteboard simulate fraud` and watch the answers.

    Examples:
      whiteboard fault redis --seconds 10
      whiteboard fault nats --kind hang
      whiteboard fault feature-worker --kind kill
    """
    supervisor = Supervisor(settings())
    try:
        strike(supervisor, process, kind)
    except KeyError as error:
        fail(str(error.args[0]))
    if kind is Kind.kill:
        say(f"{process} killed; Supervisor starts it again")
        return
    try:
        _wait(f"{process} {'hangs' if kind is Kind.hang else 'is away'}", seconds)
    finally:
        mend(supervisor, process, kind)
    say(f"[green]{process} is back[/]")


def _wait(title: str, seconds: float) -> None:
    with bar(title) as step:
        for second in range(round(seconds)):
            step(second, round(seconds))
            time.sleep(1)
        step(round(seconds), round(seconds))
