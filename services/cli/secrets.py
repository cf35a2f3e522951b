"""`whiteboard secrets`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from services.cli.output import fail, say
from services.platform.secret_files import new_secret, write_private

# As docker-compose.yml publishes it.
PAGE = "http://127.0.0.1:18090"
PAGE_TOKEN = "WHITEBOARD_PAGE_TOKEN"
# What docker-compose.yml asks for.
_RANDOM = (
    "WHITEBOARD_COMPOSE_PASSWORD",
    "WHITEBOARD_STORE_KEY",
    "WHITEBOARD_WEBHOOK_TOKEN",
    "WHITEBOARD_LABEL_TOKEN",
    PAGE_TOKEN,
)
# The key that promotion signs models with, and the one by which serving verifies them.
_PAIR = ("WHITEBOARD_COMPOSE_SIGNING_KEY", "WHITEBOARD_COMPOSE_VERIFY_KEY")
COMPOSE_SECRETS = (*_RANDOM, *_PAIR)


def secrets(
    file: Annotated[Path, typer.Option(help="File that Compose reads; lines in it stay.")] = (
        Path(".env")
    ),
) -> None:
    """Write the secrets of Docker Compose, which starts with no default one.

    `whiteboard up` needs no such file: it makes the secrets of its home itself.

    Examples:
      whiteboard secrets
      docker compose up --wait
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    known = _values(lines)
    if len(known.keys() & _PAIR) == 1:
        fail(f"{escape(str(file))} has one of {' and '.join(_PAIR)}: remove it")
    made = compose_secrets()
    missing = [name for name in COMPOSE_SECRETS if name not in known]
    lines += [f"{name}={made[name]}" for name in missing]
    write_private(file, "".join(f"{line}\n" for line in lines).encode())
    say(f"{len(missing)} secrets added to {escape(str(file))}, {len(known)} lines kept")
    say(f"The page of `docker compose up`: {PAGE}/#token={escape(_values(lines)[PAGE_TOKEN])}")


def compose_secrets() -> dict[str, str]:
    """New secrets for all that docker-compose.yml asks for."""
    from services.platform.models.checks.signature import new_pair

    return {name: new_secret() for name in _RANDOM} | dict(zip(_PAIR, new_pair(), strict=True))


def _values(lines: Iterable[str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines)
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}
