"""`whiteboard compact`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import DESIGNS, JsonOption, design_by_name, errors_as_messages, hook
from services.cli.output import bar, out, say, show_json, table
from services.platform.design import Design
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.storage.compaction import Compacted

OptionalDesign = Annotated[
    Design | None,
    typer.Argument(
        parser=design_by_name, metavar="|".join(DESIGNS), help="Which design; all without one."
    ),
]


def compact(design: OptionalDesign = None, as_json: JsonOption = False) -> None:
    """Join the lake's small files, and let old decisions expire; the scheduler does so nightly.

    Readers and writers go on. Killed in the middle, nothing is lost: run it again.

    Examples:
      whiteboard compact
      whiteboard compact fraud --json
    """
    from services.platform.storage.compaction import compact as run
    from services.platform.storage.lake import Lake

    chosen = [design] if design else [one for one in DESIGNS.values() if one.lake_tables]
    figures: dict[str, Any] = {}
    for one in chosen:
        tables = hook(one.lake_tables, one, "compact")
        with errors_as_messages():
            with bar(f"joining the files of {one.name}") as step:
                found = run(Lake(settings()), tables(), step)
            expired = {} if one.expire is None else asdict(one.expire(settings(), bar))
        figures[one.name] = {**asdict(found), "expired": expired}
        if not as_json:
            _show(one, found, expired)
    if as_json:
        show_json(figures)


def _show(design: Design, found: "Compacted", expired: dict[str, Any]) -> None:
    made = table(f"{design.title}: the lake's files", "table", "files before", "after")
    for name, before in found.files_before.items():
        made.add_row(name, f"{before:,}", f"{found.files_after[name]:,}")
    out.print(made)
    say(f"{found.rows:,} rows joined, {found.bytes_written / 1e6:,.0f} MB written")
    removed = [f"{count:,} {what}" for what, count in expired.items() if what != "before" and count]
    if removed:
        say(f"expired, of days before {expired['before']}: {', '.join(removed)}")
