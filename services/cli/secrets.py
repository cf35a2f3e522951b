"""`whiteboard secrets`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from services.cli.options import DESIGNS
from services.cli.output import fail, say
from services.platform.secret_files import write_private

# As docker-compose.yml publishes it.
PAGE = "http://127.0.0.1:18090"


def secrets(
    file: Annotated[Path, typer.Option(help="File that Compose reads; lines in it stay.")] = (
        Path(".env")
    ),
) -> None:
    """Write the secrets of Docker Compose, which starts with no default one.

    A secret that the file has stays. What the engines know of accounts is written anew: run it
    again after an update. `whiteboard up` needs no such file, it makes the secrets of its home.

    Examples:
      whiteboard secrets
      docker compose up --wait
    """
    from infra.local.compose import ENGINES, PAGE_TOKEN, PAIR, compose_secrets

    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    known = _values(lines)
    if len(known.keys() & PAIR) == 1:
        fail(f"{escape(str(file))} has one of {' and '.join(PAIR)}: remove it")
    wanted = compose_secrets(list(DESIGNS.values()), known)
    kept = [line for line in lines if line.partition("=")[0].strip() not in ENGINES]
    missing = [name for name in wanted if name not in known or name in ENGINES]
    text = [*kept, *(f"{name}={wanted[name]}" for name in missing)]
    write_private(file, "".join(f"{line}\n" for line in text).encode())
    added = len(wanted.keys() - known.keys())
    say(f"{added} secrets added to {escape(str(file))}, {len(kept)} lines kept")
    say(f"The page of `docker compose up`: {PAGE}/#token={escape(wanted[PAGE_TOKEN])}")


def _values(lines: Iterable[str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}
