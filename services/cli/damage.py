"""`whiteboard damage`: what was lost, doubled and skewed during a fault, and what it cost."""

import os
import re
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, hook
from services.cli.output import err, out, say, show_json, table
from services.platform.design import WORKER_NICE
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.hooks import Damage

_AGO = re.compile(r"(\d{1,5})(s|m|h)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}
# The ids of a period are in memory.
_MAX = timedelta(hours=1)


def damage(
    design: DesignArgument,
    since: Annotated[
        str, typer.Option(help="Begin: 90s, 5m, 1h ago, or a time such as 2026-11-29T10:00:00Z.")
    ],
    until: Annotated[str, typer.Option(help="End, likewise; at most an hour later.")] = "0s",
    as_json: JsonOption = False,
) -> None:
    """Count what a fault did: unanswered, lost, doubled, skewed, EUR.

    It waits until the lake has everything, up to a minute. Payments: EUR is what those that were
    unanswered or decided without the online store are expected to cost more than the champion's
    decisions with their features; it is no bill, and leaves out rules and late answers. Images: EUR
    is what a person's inspection costs of each image that has no result.

    Examples:
      whiteboard damage fraud --since 2m
      whiteboard damage cv --since 2026-11-29T10:00:00Z --until 2026-11-29T10:01:00Z --json
    """
    count = hook(design.damage, design, "damage")
    now = datetime.now(UTC)
    begin, end = (read_time(text, now) for text in (since, until))
    if not timedelta(0) < end - begin <= _MAX:
        raise typer.BadParameter("--until is to be later than --since, by at most an hour.")
    os.nice(WORKER_NICE)  # requests that come meanwhile go first
    with errors_as_messages(), err.status("waiting for the lake, and counting"):
        found = count(settings(), begin, end)
    if as_json:
        show_json(asdict(found))
    else:
        _show(found, begin, end)


def read_time(text: str, now: datetime) -> datetime:
    """A time as on the command line, in UTC; one without a zone is this machine's.

    >>> read_time("5m", datetime(2026, 11, 29, 10, tzinfo=UTC)).isoformat()
    '2026-11-29T09:55:00+00:00'
    """
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: 90s, 5m or 1h ago, or 2026-11-29T10:00:00Z."
        ) from None


def _show(found: "Damage", begin: datetime, end: datetime) -> None:
    made = table(f"{begin:%H:%M:%S} to {end:%H:%M:%S} UTC", "", "")
    rows = {
        "came in": f"{found.came_in:,}",
        "unanswered": f"{found.unanswered:,}",
        "degraded": f"{found.degraded:,}",
        "lost": f"{found.lost:,}",
        "doubled": f"{found.doubled:,}",
        "skewed": f"{found.skewed:,} of {found.compared:,} compared",
        "EUR": "not known" if found.eur is None else f"{found.eur:,.2f}",
    }
    for name, value in rows.items():
        made.add_row(name, value)
    out.print(made)
    for sentence in found.said:
        say(f"  {sentence}")
