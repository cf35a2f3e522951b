"""`whiteboard deploy`: restart the scorers one after another, without a request that fails."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from infra.local.rolling import DRAIN_S, Change, Rolling
from infra.local.supervisor import Supervisor
from services.cli.options import (
    DESIGNS,
    DesignArgument,
    JsonOption,
    errors_as_messages,
    only_with,
    with_command,
)
from services.cli.output import err, fail, out, say, show_json, table
from services.cli.programs import counts, programs
from services.platform.runtime.sharing.siblings import number_of
from services.platform.settings import settings

_DEFAULT = with_command("deploy")


def deploy(
    design: DesignArgument = _DEFAULT,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds that a process waits for idle connections.")
    ] = DRAIN_S,
    as_json: JsonOption = False,
) -> None:
    """Restart a design's HTTP processes one after another, under load: new code, new settings.

    One more process starts and is ready before the first ends, so old and new ones answer side by
    side and never fewer than before. A process that ends accepts no connection, answers what comes
    on those it has with `Connection: close`, publishes its decisions and exits. If a new process
    does not become ready, the old ones go on, and the command exits with 1.

    Examples:
      whiteboard deploy fraud
      whiteboard deploy fraud --drain 5 --json
    """
    only_with(design, "deploy")
    config, name = settings(), design.http.name
    supervisor, begin = Supervisor(config), time.monotonic()
    running = [number_of(one, name) for one in supervisor.states()]
    if not any(number is not None for number in running):
        fail(f"no {name} runs in {config.home}: `whiteboard up` starts it")
    with errors_as_messages():
        count = design.http.processes(config)
        numbers = counts(config, DESIGNS.values()) | {name: count + 1}
        rolling = Rolling(
            supervisor, config.home, name, programs(config, DESIGNS.values(), numbers), drain
        )
    try:
        with err.status(f"restarting {name}") as status:
            changes = rolling.restart(count, status.update)
    except (OSError, RuntimeError) as error:
        fail(str(error))
    seconds = time.monotonic() - begin
    if as_json:
        changed = [asdict(change) for change in changes]
        show_json({"processes": count, "changes": changed, "seconds": round(seconds, 1)})
    else:
        _show(changes)
        say(f"{count} of {name} restarted in {seconds:.0f} s")


def _show(changes: list[Change]) -> None:
    board = table("What happened", "process", "", "pid", "build", "model", "after", "requests")
    for one in changes:
        board.add_row(
            one.process, one.what, str(one.pid), one.build, one.model, f"{one.seconds:.1f} s",
            "" if one.what == "started" else f"{one.requests:,}",
        )  # fmt: skip
    out.print(board)
