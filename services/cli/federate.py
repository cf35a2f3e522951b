"""`whiteboard federate`: what banks that may not share a row gain by training together."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import (
    DesignArgument,
    JsonOption,
    errors_as_messages,
    only_with,
    with_command,
)
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.evaluation.federation.comparison import Comparison
    from services.fraud.evaluation.federation.request import FederationRequest

_DEFAULT = with_command("federate")
# Each part of a federation waits so long for the others.
_MEET_S = 900.0


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(one) for one in text.split(",") if one)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1,2,4,8") from None
    if any(epsilon <= 0 for epsilon in found):
        raise typer.BadParameter("an epsilon is a number above 0")
    return found


def _bank(text: str, banks: int, option: str) -> int:
    names = _names(banks)
    if text not in names:
        raise typer.BadParameter(f"no {text!r} among {', '.join(names)}", param_hint=option)
    return names.index(text) + 1


def _names(banks: int) -> list[str]:
    return [f"bank-{number}" for number in range(1, banks + 1)]


def federate(
    design: DesignArgument = _DEFAULT,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="Rounds of training.")] = 8,
    banks: Annotated[int, typer.Option(min=3, max=8, help="How many banks.")] = 4,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="The same apps in one process.")
    ] = False,
    seeds: Annotated[
        int, typer.Option(min=1, help="Simulated data sets; several need --in-process.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first simulated data set.")] = 7,
    days: Annotated[int, typer.Option(min=36, help="Days of a simulated data set.")] = 60,
    secure: Annotated[
        bool, typer.Option("--secure", help="Secure aggregation: the server sees the sum alone.")
    ] = False,
    private: Annotated[
        str, typer.Option(help="Differential privacy of customers: epsilons, as 1,2,4,8.")
    ] = "",
    poison: Annotated[str, typer.Option(help="A bank that falsifies updates, as bank-3.")] = "",
    only: Annotated[
        str, typer.Option(help="This part alone, the others elsewhere: coordinator, or bank-2.")
    ] = "",
    meet: Annotated[
        Path | None, typer.Option(help="Folder of public keys that all parts see, with --only.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train one model over several banks with Flower; no transaction leaves its bank.

    Needs no stack, but `make federated-setup`. The best network is registered if the stack is up:
    `whiteboard swap fraud federated` puts it through shadow mode and the gate.

    Examples:
      whiteboard federate fraud
      whiteboard federate fraud --in-process --seeds 3 --json
      whiteboard federate fraud --in-process --private 1,2,4,8
      whiteboard federate fraud --in-process --secure --poison bank-3
      whiteboard federate fraud --only bank-2 --meet /meet
    """
    only_with(design, "federate")
    if seeds > 1 and not in_process:
        raise typer.BadParameter("several seeds need --in-process", param_hint="--seeds")
    from services.fraud.evaluation.federation.request import FederationRequest

    request = FederationRequest(
        home=(settings().home / "federated").resolve(), banks=banks, rounds=rounds,
        seeds=tuple(range(seed, seed + seeds)), days=days, in_process=in_process, secure=secure,
        private=_numbers(private), poison=_bank(poison, banks, "--poison") if poison else 0,
    )  # fmt: skip
    if only:
        _only(only, request, meet or request.home / "meet", as_json)
        return
    found = _compare(request)
    plot = _plot(found, request.home / "federated.png")
    registered = _register(found, seed) if request.is_plain else ""
    if as_json:
        show_json({**found.as_json(), "plot": str(plot), "registered": registered})
        return
    _show(found)
    say(f"plot {plot.resolve()}")
    if registered:
        say(registered)


def _compare(request: "FederationRequest") -> "Comparison":
    from infra.local import flower
    from services.fraud.evaluation.federation.comparison import compare
    from services.fraud.evaluation.federation.running import EXECUTOR

    try:
        with errors_as_messages():
            return compare(
                request,
                bar,
                lambda module, arguments, on_line: flower.run_module(
                    module, arguments, request.home / "flower" / "local", on_line
                ),
                lambda nodes: flower.Federation(settings(), nodes, EXECUTOR),
            )
    except RuntimeError as error:
        fail(str(error))


def _only(part: str, request: "FederationRequest", meet: Path, as_json: bool) -> None:
    """Run the coordinator, or one bank, until it ends."""
    from infra.local import flower_apart
    from services.fraud.evaluation.federation.apart import bank_rows, coordinate

    at = settings()
    try:
        with errors_as_messages():
            if part != flower_apart.COORDINATOR:
                number = _bank(part, request.banks, "--only")
                with bar(f"cutting the rows of {part}") as step:
                    folder = bank_rows(request, number, step)
                config = {"bank": number, "data": str(folder), "poison": ""}
                flower_apart.join(at, part, config, meet, _MEET_S)
            names = _names(request.banks)
            with flower_apart.coordinator(at, names, meet, _MEET_S) as federation:
                job, received = coordinate(request, federation, bar)
    except RuntimeError as error:
        fail(str(error))
    report = job.report
    if as_json:
        show_json({**report, "received": received, "model": str(job.out)})
        return
    for number, phase in enumerate(report["phases"], start=1):
        say(f"round {number}: banks {phase['banks']}, {phase['seconds']:.1f} s")
    for note in report["errors"]:
        say(f"note: {note}")
    say(f"{received:,} bytes from the banks; the network is in {job.out}")


def _plot(found: "Comparison", path: Path) -> Path:
    from services.fraud.evaluation.federation.plot import plot

    plot(found.rows, path)
    return path


def _register(found: "Comparison", seed: int) -> str:
    """Register the best network where the stack is up; otherwise say what is missing."""
    from services.fraud.privacy.registration import register

    try:
        card = register(settings(), found.best, seed, bar).card
    except OSError:
        return "not registered, the stack is down: `whiteboard up`, then federate again"
    except ValueError as error:
        return f"not registered: {error}"
    return f"registered as {card.label}: `whiteboard swap fraud federated`"


def _show(found: "Comparison") -> None:
    board = table(
        "Banks that share no row", "", "AP, mean of banks", "AP, worst bank", "EUR a day",
        "bytes out of a bank", "minutes",
    )  # fmt: skip
    for row in found.rows:
        board.add_row(
            row.name.replace("_", " "),
            _figure(row.ap, row.intervals.get("ap")),
            _figure(row.ap_worst_bank, row.intervals.get("ap_worst_bank")),
            f"{row.cost_per_day:,.0f}",
            f"{row.bytes_out:,.0f}" if row.bytes_out else "0",
            f"{row.seconds / 60:.1f}",
        )
    out.print(board)
    for row in found.rows:
        for name, value in row.details.items():
            out.print(f"  {row.name}: {name} {value}", highlight=False)
    for kind, of in found.closed.items():
        out.print(
            f"  {kind}: together the banks close {of['ap']:.0%} of the gap between alone and "
            f"all rows in one place, {of['ap_worst_bank']:.0%} at the worst bank",
            highlight=False,
        )


def _figure(value: float, interval: tuple[float, float] | None) -> str:
    shown = f"{value:.3f}"
    return f"{shown} ({interval[0]:.3f} to {interval[1]:.3f})" if interval else shown
