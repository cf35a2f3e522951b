"""A SuperLink and SuperNodes on machines of their own, or in containers.

They meet in a folder that all can read and write: it holds the SuperLink's certificate authority
and each SuperNode's public key, and nothing secret. The SuperLink admits the keys that it finds
there, so a process that can write to the folder can take part.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from infra.local.certificates import AUTHORITY
from infra.local.engines import environment
from infra.local.flower import DEFAULT_PORT, Federation, supernode_command, variables
from infra.local.flower_keys import write_key
from services.platform.settings import Settings

# The name of the SuperLink's machine.
COORDINATOR = "coordinator"
# Of the SuperLink, before a SuperNode ends and is started again.
_MAX_RETRIES = 20


@contextmanager
def coordinator(
    settings: Settings, nodes: Iterable[str], meet: Path, wait: float
) -> Iterator[Federation]:
    """A SuperLink alone, which admits the SuperNodes that left a key in the folder.

    Args:
        nodes: Names of the SuperNodes.
        meet: The folder.
        wait: Seconds to wait for their keys.

    Raises:
        RuntimeError: a key is missing after `wait` seconds; the message names it.
    """
    with Federation(settings, {}, "", [COORDINATOR]) as federation:
        _publish(federation.authority, meet)
        keys = [meet / f"{name}.pub" for name in nodes]
        _wait_for(keys, wait)
        for key in keys:
            federation.register(key)
        yield federation


def join(
    settings: Settings, name: str, config: Mapping[str, Any], meet: Path, wait: float
) -> NoReturn:  # fmt: skip
    """Become a SuperNode of the machine `COORDINATOR`: this process goes on as Flower's.

    Args:
        name: Its name; its key stays in the folder `federated` of the settings' home.
        config: What its ClientApp reads.
        meet: The folder.
        wait: Seconds to wait for the SuperLink's certificate.

    Raises:
        RuntimeError: no certificate after `wait` seconds.
    """
    home = (settings.home / "federated").resolve()
    key = home / "keys" / name
    if not key.exists():
        write_key(key.parent, name)
    _publish(key.with_suffix(".pub"), meet)
    _wait_for([meet / AUTHORITY], wait)
    port = settings.value("superlink_port", DEFAULT_PORT)
    command = (
        *supernode_command(f"{COORDINATOR}:{port}", meet / AUTHORITY, key, config),
        "--max-retries", str(_MAX_RETRIES),
    )  # fmt: skip
    os.execve(command[0], command, {**environment(), **variables(home / "flower" / name)})


def _publish(file: Path, meet: Path) -> None:
    """Copy a public file into the folder, in one step."""
    meet.mkdir(parents=True, exist_ok=True)
    partial = meet / f".{file.name}"
    shutil.copyfile(file, partial)
    partial.rename(meet / file.name)


def _wait_for(files: list[Path], seconds: float) -> None:
    end = time.monotonic() + seconds
    while missing := [file for file in files if not file.exists()]:
        if time.monotonic() > end:
            raise RuntimeError(
                f"after {seconds:.0f} s there is no {', '.join(f.name for f in missing)} in "
                f"{missing[0].parent}: has the other side been started?"
            )
        time.sleep(0.5)
