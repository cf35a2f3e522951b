"""How the commands speak: tables and progress for people, JSON for machines."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.platform.progress import ProgressCallback

if TYPE_CHECKING:
    from services.platform.hooks import Table as TableText

out = Console()
err = Console(stderr=True)

# Between two lines of progress, where stderr is no terminal.
_LINE_S = 5.0
# By event of a model's history.
EVENT_COLOURS = {"promoted": "green", "refused": "red", "rolled_back": "yellow"}


@contextmanager
def bar(title: str) -> Iterator[ProgressCallback]:
    """A progress bar on stderr, which stays when the work is done; lines without a terminal."""
    with (_drawn if err.is_terminal else _printed)(title) as step:
        yield step


@contextmanager
def _drawn(title: str) -> Iterator[ProgressCallback]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(title, total=None)

        def step(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        yield step
        if progress.tasks[0].total is None:
            progress.update(task, completed=1, total=1)


@contextmanager
def _printed(title: str) -> Iterator[ProgressCallback]:
    """A line when the work begins, every few seconds, and when it is done."""
    begin = printed = time.monotonic()
    newest = ""
    say(escape(title))

    def step(done: int, of: int) -> None:
        nonlocal printed, newest
        newest = f": {done:,} of {of:,}"
        if time.monotonic() - printed > _LINE_S:
            printed = time.monotonic()
            say(escape(title + newest))

    yield step
    say(escape(f"{title}{newest}, {time.monotonic() - begin:.0f} s"))


def say(message: str) -> None:
    """Print a line on stderr."""
    err.print(message, highlight=False)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with a message that says what to do."""
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False)
    raise typer.Exit(code)


def show_json(figures: Mapping[str, Any]) -> None:
    """Print figures as JSON, as `json_text`."""
    print(json_text(figures))


def json_text(figures: Mapping[str, Any]) -> str:
    """Figures as JSON; NaN and infinity become null."""
    return json.dumps(_finite(figures), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, *headers: str) -> Table:
    """An empty table in the house style."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for header in headers:
        made.add_column(header, overflow="fold")  # a name that is cut cannot be typed
    return made


def show_table(text: "TableText") -> None:
    """Print a table that a design made."""
    made = table(text.title, *text.headers)
    for row in text.rows:
        made.add_row(*row)
    out.print(made)
    for line in text.footer:
        out.print(f"  {line}", highlight=False)
