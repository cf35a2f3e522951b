"""`whiteboard fault`: make a process fail as the docs discuss, and bring it back."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from infra.local.bad_link import behind_proxy
from infra.local.faults import Kind, mend, strike
from infra.local.supervisor import Supervisor
from services.cli.options import FIRST
from services.cli.output import bar, err, fail, say
from services.platform.runtime.tcp_proxy import BadLink
from services.platform.settings import settings

_NAMES = f"redis, nats, seaweedfs, {FIRST.http.name}, ..."


def fault(
    process: Annotated[str, typer.Argument(help=_NAMES)],
    kind: Annotated[
        Kind,
        typer.Option(
            help="kill: -9, and it is restarted; hang: stopped; away: down for a while; slow: an "
            "engine behind a proxy."
        ),
    ] = Kind.away,
    seconds: Annotated[float, typer.Option(min=1, help="How long; not for kill.")] = 10,
    latency: Annotated[
        float, typer.Option(min=0, max=10_000, help="slow: milliseconds more a round trip.")
    ] = 30,
    jitter: Annotated[
        float, typer.Option(min=0, max=10_000, help="slow: up to this more, by chance.")
    ] = 20,
    resets: Annotated[
        float, typer.Option(min=0, max=1, help="slow: share of chunks that reset a connection.")
    ] = 0.01,
) -> None:
    """Make a process of the running stack fail, and bring it back.

    Run it beside `whiteboard simulate fraud` and watch the answers. `whiteboard damage` counts
    afterwards what was lost, doubled or skewed, and what it cost.

    Examples:
      whiteboard fault redis --seconds 10
      whiteboard fault nats --kind hang
      whiteboard fault feature-worker --kind kill
      whiteboard fault redis --kind slow --latency 30 --jitter 20 --resets 0.01
    """
    supervisor, since = Supervisor(settings()), datetime.now(UTC)
    if kind is Kind.slow:
        _slow(supervisor, process, BadLink(latency, jitter, resets), seconds)
    else:
        _break(supervisor, process, kind, seconds)
    say(f"what it did: `whiteboard damage {FIRST.name} --since {since:%Y-%m-%dT%H:%M:%SZ}`")


def _break(supervisor: Supervisor, process: str, kind: Kind, seconds: float) -> None:
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


def _slow(supervisor: Supervisor, process: str, link: BadLink, seconds: float) -> None:
    try:
        with err.status(f"{process} is behind a proxy for {seconds:g} s"):
            proxy = asyncio.run(behind_proxy(settings(), supervisor, process, link, seconds))
    except (KeyError, OSError, RuntimeError) as error:
        fail(str(error.args[0] if error.args else error))
    say(
        f"[green]{process} is back[/]; {proxy.connections} connections went through the proxy, "
        f"{proxy.resets} were reset"
    )


def _wait(title: str, seconds: float) -> None:
    with bar(title) as step:
        for second in range(round(seconds)):
            step(second, round(seconds))
            time.sleep(1)
        step(round(seconds), round(seconds))
