"""`whiteboard plan`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from services.cli.options import FIRST, DesignArgument, JsonOption, errors_as_messages, hook
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.capacity.plan import Plan

_ZONES_LOST = {"nothing": 0, "one-zone": 1}


def plan(
    design: DesignArgument = FIRST,
    tps: Annotated[
        float, typer.Option("--tps", "--images", help="Decisions (or images) a second, on average.")
    ] = 1_000.0,
    peak: Annotated[float, typer.Option(min=1, help="Factor of the peak.")] = 2.0,
    slo_ms: Annotated[float, typer.Option(help="Bound of p95, ms; 0: the design's budget.")] = 0.0,
    survive: Annotated[
        Literal["nothing", "one-zone"], typer.Option(help="What may be lost at the peak.")
    ] = "nothing",
    entities: Annotated[int, typer.Option(min=0, help="Customers; 0: a million.")] = 0,
    case: Annotated[
        Literal["low", "mid", "high"], typer.Option(help="Processor times: best, usual, worst.")
    ] = "mid",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the parts of the running stack instead.")
    ] = False,
    knee: Annotated[
        bool, typer.Option("--knee", help="With --calibrate: then measure the knee, and compare.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=1, help="With --calibrate: how often, in turn; medians count.")
    ] = 3,
    as_json: JsonOption = False,
) -> None:
    """Plan machines and money for a load, from measured parts; says what breaks first, and where.

    Exits with 1 where the plan cannot be met. `--calibrate` measures latency and the processor
    time of each part of the running stack, and predicts the knee of this machine from them.

    Examples:
      whiteboard plan fraud --tps 50000 --peak 2 --slo-ms 50 --survive one-zone
      whiteboard plan cv --images 200 --json
      whiteboard plan fraud --calibrate --knee --json
    """
    make = hook(design.capacity, design, "plan")
    budget_ms = slo_ms or design.problem().latency_budget_ms
    if calibrate:
        from loadtest.calibration import calibration

        with errors_as_messages():
            found = calibration(settings(), design, budget_ms, knee, rounds, bar)
        show_json(asdict(found))
        return
    from services.platform.capacity.plan import Demand
    from services.platform.capacity.plan import plan as run

    with errors_as_messages():
        demand = Demand(tps, peak, budget_ms, _ZONES_LOST[survive], entities)
        made = run(make(settings()), demand, case)
    if as_json:
        show_json(asdict(made))
    else:
        _show(design.title, made)
    if made.unmet:
        fail("the plan cannot be met: " + "; ".join(made.unmet))


def _show(title: str, made: "Plan") -> None:
    from services.platform.capacity.parts import EUR_PER_USD

    parts = table(title, "part", "a core: low / mid / high", "at the peak", "cores", "with spare")
    for row in made.rows:
        rates = " / ".join(f"{rate:,.0f}" for rate in row.rate_per_core)
        parts.add_row(
            row.part, rates, f"{row.load:,.0f} {row.unit}/s", f"{row.cores:,.1f}",
            f"{row.provisioned:,}",
        )  # fmt: skip
    out.print(parts)
    needs = table("What each part needs", "part", "memory GB", "disk GB", "Mbit/s", "bound by")
    for row in made.rows:
        needs.add_row(
            row.part, f"{row.memory_gb:,.1f}", f"{row.disk_gb:,.0f}", f"{row.network_mbit:,.0f}",
            row.binds,
        )  # fmt: skip
    out.print(needs)
    money = table("Machines", "family", "machines", "bound by", "EUR a month", "EUR a million")
    for cost in made.costs:
        money.add_row(
            cost.family, f"{cost.machines:,}", cost.binds, f"{cost.eur_a_month:,.0f}",
            f"{cost.eur_per_million:.3f}",
        )  # fmt: skip
    out.print(money)
    say(f"p95 at the peak {made.p95_ms:.1f} ms; breaks first: {made.first or 'nothing'}")
    for line in [*(f"{row.part}: {row.source}" for row in made.rows), *made.notes]:
        say(f"  {line}")
    prices = "; ".join(dict.fromkeys(cost.price for cost in made.costs))
    say(f"  prices: {prices}; {EUR_PER_USD} EUR a USD is an assumption")
