"""Secrets of an installation: random, one per file, in a folder that only its owner can enter.

The first `up` makes them. A name is that of an account at the engines or of a token.
"""

import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

_BYTES = 24


def secrets_folder(home: Path) -> Path:
    """Folder of a home's secrets."""
    return home / "secrets"


def make_private(folder: Path) -> Path:
    """Make a folder, or take other users' access to it away. Returns it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    return folder


def read_secret(home: Path, name: str) -> str:
    """A secret by name; empty if there is none, which no reader may take for a password."""
    try:
        return (secrets_folder(home) / name).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def new_secret() -> str:
    """A random secret; it begins with a letter, so that no configuration reads it as a number."""
    return f"s{token_hex(_BYTES)}"


def make_secret(home: Path, name: str, new: Callable[[], str] = new_secret) -> str:
    """A secret by name, made by `new` unless it exists. Two processes get the same one."""
    if found := read_secret(home, name):
        return found
    folder = make_private(secrets_folder(make_private(home)))
    draft = folder / f".{name}.{os.getpid()}"
    write_private(draft, new().encode())
    try:
        os.link(draft, folder / name)
    except FileExistsError:
        pass  # another process was first
    finally:
        draft.unlink()
    return read_secret(home, name)


def make_pair(home: Path, name: str, new_pair: Callable[[], tuple[str, str]]) -> tuple[str, str]:
    """A private and a public key by name, made by `new_pair` unless they exist.

    Two processes that make them get the same pair: both are in one file.
    """
    kept = make_secret(home, name, lambda: ":".join(new_pair()))
    private, _, public = kept.partition(":")
    write_private(secrets_folder(home) / f"{name}.public", public.encode())
    return private, public


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read; it is never readable by others in between."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(data)
