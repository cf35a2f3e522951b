"""How the commands speak: tables and progress for people, JSON for machines."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.platform.progress import Step

out = Console()
err = Console(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]


@contextmanager
def bar(title: str) -> Iterator[Step]:
    """A progress bar on stderr, so that it mixes with no output; it stays when it is done."""
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


def say(message: str) -> None:
    """A line for people, on stderr."""
    err.print(message, highlight=False)


def fail(message: str, code: int = 1) -> NoReturn:
    """End with a message that says what to do."""
    err.print(f"[bold red]error:[/] {message}", highlight=False)
    raise typer.Exit(code)


def show_json(figures: Mapping[str, Any]) -> None:
    """Print figures for machines; what is not a number is null, as JSON knows no NaN."""
    print(json.dumps(_finite(figures), indent=2, default=str, allow_nan=False))


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
        made.add_column(header)
    return made
