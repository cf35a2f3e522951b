"""`whiteboard drill`: a concept drift, hours without Redis, missing labels, declined attempts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from infra.local.faults import Kind, mend, strike
from infra.local.supervisor import Supervisor
from services.cli.options import (
    CandidateOption,
    DesignArgument,
    JsonOption,
    errors_as_messages,
    only_with,
    with_command,
)
from services.cli.output import bar, fail, out, say, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.fraud.evaluation.attempts.study import Saving
    from services.fraud.evaluation.drill import Drill
    from services.fraud.evaluation.without_features.offline import Outages
    from services.fraud.evaluation.without_features.stack import OutageRun

_DEFAULT = with_command("drill")


def drill(
    design: DesignArgument = _DEFAULT,
    candidate: CandidateOption = "",
    strength: Annotated[float, typer.Option(min=0, max=1, help="Of the concept drift.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the simulated data set.")] = 0,
    without_features: Annotated[
        bool, typer.Option("--without-features", help="Take Redis from the running stack instead.")
    ] = False,
    selective_labels: Annotated[
        bool, typer.Option("--selective-labels", help="Retrain on labels of approved ones only.")
    ] = False,
    control: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of declines in the control group.")
    ] = 0.03,
    attempts: Annotated[
        bool, typer.Option("--attempts", help="Decide by states that tell attempts from purchases.")
    ] = False,
    hours: Annotated[float, typer.Option(min=0.1, help="Simulated hours without Redis.")] = 12,
    runs: Annotated[int, typer.Option(min=1, help="Times without Redis; seeds of attempts.")] = 3,
    rate: Annotated[float, typer.Option(min=1, help="Transactions a second, without Redis.")] = 200,
    kind: Annotated[Kind, typer.Option(help="How Redis fails: away or hang.")] = Kind.away,
    offline: Annotated[
        bool, typer.Option("--offline", help="Hours without Redis in memory, without a stack.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Inject a concept drift and measure what retraining saves. A minute or two, no stack.

    Exits with 1 if no challenger was promoted, or the cost did not fall. With --without-features:
    what hours without Redis cost in the running stack, or in memory with --offline; 1 if all runs
    together cost more than 1.5 times as much (offline: by the rows of a day). With
    --selective-labels: 60 days of nightly retraining without labels of declined transactions; 1 if
    the estimated cost's interval misses the true cost on more than a tenth of the days. With
    --attempts: what states that tell attempts from approved purchases save; half an hour.

    Examples:
      whiteboard drill fraud
      whiteboard drill fraud --strength 0.5 --json
      whiteboard drill fraud --without-features --offline
      whiteboard drill fraud --without-features --hours 12
      whiteboard drill fraud --selective-labels --control 0.03
      whiteboard drill fraud --attempts --runs 3
    """
    only_with(design, "drill")
    modes = {
        "--without-features": without_features,
        "--selective-labels": selective_labels,
        "--attempts": attempts,
    }
    chosen = [name for name, is_chosen in modes.items() if is_chosen]
    if len(chosen) > 1:
        raise typer.BadParameter(f"{' and '.join(chosen)} are drills of their own: choose one")
    if offline and not without_features:
        raise typer.BadParameter("--offline goes with --without-features")
    if without_features and offline:
        _offline_outages(seed, as_json)
        return
    if without_features:
        _without_features(hours, runs, rate, kind, as_json)
        return
    if selective_labels:
        _selective_labels(seed, control, as_json)
        return
    if attempts:
        _attempts(tuple(range(seed, seed + runs)), control, as_json)
        return
    from services.fraud.evaluation.drill import plot, run

    candidate = candidate or design.first_candidate
    with errors_as_messages():
        found = run(candidate, strength, seed, bar)
    path = settings().home / "drill" / f"fraud-{candidate}-{strength:g}.png"
    plot(found, path)
    if as_json:
        show_json({**found.as_json(), "plot": str(path)})
    else:
        _show(found)
        say(f"plot {path.resolve()}")
    if strength and not found.means.get("retrained", 1e9) < found.means.get("unattended", 0.0):
        fail("retraining did not reduce the cost: see the gate decisions above")


def _show(found: "Drill") -> None:
    board = table("Retraining since the drift", "day", "", "EUR saved on 3 labelled days", "why")
    for night in found.nights:
        word = "[green]promoted[/]" if night.promoted else "[yellow]refused[/]"
        saved = f"{night.saves_eur:,.0f}" if night.until else "-"
        board.add_row(str(night.day), word if night.until else "-", saved, night.reasons[0])
    out.print(board)
    costs = table("Cost of a day, mean", "", "EUR")
    words = {
        "before": f"before the drift on day {found.drift_day}",
        "drifted": "drifted, before any retraining",
        "retrained": "the last three weeks, with retraining",
        "unattended": "the same weeks, without retraining",
    }
    for key, value in found.means.items():
        costs.add_row(words[key], f"{value:,.0f}")
    out.print(costs)


def _without_features(hours: float, runs: int, rate: float, kind: Kind, as_json: bool) -> None:
    from services.fraud.evaluation.without_features import MAX_RATIO
    from services.fraud.evaluation.without_features.stack import run, together

    if kind is Kind.kill:
        fail("a killed Redis is back within a second: choose --kind away or --kind hang")
    supervisor = Supervisor(settings())

    @contextmanager
    def outage() -> Iterator[None]:
        strike(supervisor, "redis", kind)
        try:
            yield
        finally:
            mend(supervisor, "redis", kind)

    with errors_as_messages():
        found = [run(settings(), hours, rate, 7, outage, bar) for _ in range(runs)]
    ratio = together(found)
    if as_json:
        made = [one.as_json() for one in found]
        show_json({"hours": hours, "kind": kind.value, "ratio": ratio, "runs": made})
    else:
        _show_outages(found, hours)
        say(f"all {len(found)} together: {ratio:.2f} times the cost with features")
    if ratio > MAX_RATIO:
        fail(f"without Redis it cost {ratio:.2f} times as much, at most {MAX_RATIO} is allowed")


def _offline_outages(seed: int, as_json: bool) -> None:
    from services.fraud.evaluation.without_features import MAX_RATIO
    from services.fraud.evaluation.without_features.offline import WARM, run

    with errors_as_messages():
        found = run(seed, bar)
    if as_json:
        show_json(found.as_json())
    else:
        _show_offline(found)
    if (ratio := found.cases[WARM].ratio) > MAX_RATIO:
        fail(
            f"with a warm cache it costs {ratio:.2f} times as much, at most {MAX_RATIO} is allowed"
        )


def _show_offline(found: "Outages") -> None:
    board = table(
        f"{found.hours} hours without Redis, {found.transactions:,} transactions, "
        f"{found.frauds} frauds; EUR an hour",
        "decided by", "cost", "ratio", "95 %", "reviewed", "ratio", "precision", "recall",
    )  # fmt: skip
    for name, one in found.cases.items():
        board.add_row(
            name.replace("_", " "), f"{one.eur_per_hour:,.0f}", f"{one.ratio:.2f}",
            f"{one.low:.2f}-{one.high:.2f}", f"{one.eur_per_hour_reviewed:,.0f}",
            f"{one.ratio_reviewed:.2f}", f"{one.precision:.2f}", f"{one.recall:.2f}",
        )  # fmt: skip
    out.print(board)


def _show_outages(found: "list[OutageRun]", hours: float) -> None:
    board = table(
        f"{hours:g} simulated hours without Redis, EUR an hour by the simulator's truth",
        "run", "transactions", "degraded", "frauds", "precision", "recall", "cost",
        "with features", "ratio", "hours before",
    )  # fmt: skip
    for number, one in enumerate(found, start=1):
        board.add_row(
            str(number), f"{one.transactions:,}", f"{one.degraded:,}", str(one.frauds),
            f"{one.precision:.2f}", f"{one.recall:.2f}", f"{one.eur_per_hour:,.0f}",
            f"{one.eur_per_hour_with_features:,.0f}", f"{one.ratio:.2f}",
            f"{one.eur_per_hour_before:,.0f}",
        )  # fmt: skip
    out.print(board)


def _selective_labels(seed: int, rate: float, as_json: bool) -> None:
    from services.fraud.evaluation.selective_labels import drill as selective_labels

    with errors_as_messages():
        found = selective_labels.run(seed, rate, bar)
    path = settings().home / "drill" / f"fraud-selective-labels-{seed}.png"
    selective_labels.plot(found, path)
    figures = {name: arm.figures() for name, arm in found.arms.items()}
    if as_json:
        show_json({**found.as_json(), "plot": str(path)})
    else:
        board = table(
            "60 days of nightly retraining, EUR a day; true costs are the simulator's",
            "labels", "cost", "last 25 days", "estimated", "days covered", "declined",
            "control group", "which costs",
        )  # fmt: skip
        for name, of in figures.items():
            board.add_row(
                name, f"{of['cost_a_day']:,.0f}", f"{of['cost_a_day_last']:,.0f}",
                f"{of['estimated_a_day']:,.0f}", f"{of['days_covered']:.0%}",
                f"{of['declined_a_day']:,.0f}", f"{of['controls_a_day']:.1f}",
                f"{of['control_cost_a_day']:,.0f}",
            )  # fmt: skip
        out.print(board)
        say(f"plot {path.resolve()}")
    covered = figures[selective_labels.CONTROL]["days_covered"]
    if covered < selective_labels.MIN_COVERED:
        fail(
            f"the interval of the estimated cost covers the true cost on {covered:.0%} of the days"
        )


def _attempts(seeds: tuple[int, ...], control: float, as_json: bool) -> None:
    from services.fraud.evaluation.attempts.study import LAST_DAYS, run

    with errors_as_messages():
        found = run(seeds, control, bar)
    if as_json:
        show_json(found.as_json())
        return
    board = table(
        f"{found.days} days of nightly retraining, {len(seeds)} seeds; EUR a day by the "
        "simulator's truth, saved against states of attempts with its 95 % interval by day",
        "states", "cost", "saved", f"last {LAST_DAYS} days", "frauds missed", "genuine stopped",
    )  # fmt: skip
    for name, of in found.systems.items():
        board.add_row(
            name, f"{of.cost.mean():,.0f}", _saved(found.saving(name)),
            _saved(found.saving(name, LAST_DAYS)), f"{of.missed.mean():.1f}",
            f"{of.stopped.mean():.1f}",
        )  # fmt: skip
    out.print(board)


def _saved(of: "Saving") -> str:
    return f"{of.mean:,.0f} ({of.low:,.0f} to {of.high:,.0f})"
