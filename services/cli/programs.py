"""What runs here as programs of the process manager: engines and every process of the designs."""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from infra.local.engines import Program, engines
from services.cli.options import DESIGNS
from services.platform.design import (
    SCHEDULER,
    WALKTHROUGH,
    Design,
    HttpApp,
    Process,
    accounts,
)
from services.platform.run import SHARED
from services.platform.settings import Settings

# The scheduler runs its jobs by this command.
_WHITEBOARD = (sys.executable, "-m", "services.cli.main")


def programs(
    config: Settings, designs: Iterable[Design], numbers: Mapping[str, int] | None = None
) -> list[Program]:
    """The processes of designs, and the shared ones, as programs of this machine.

    Args:
        numbers: By process, how many there are where it is not one.
    """
    own = [
        one
        for design in designs
        for process in design.everything
        for one in _programs(config, design.name, process, (numbers or {}).get(process.name, 1))
    ]
    return [
        *own,
        program(config, SHARED, SCHEDULER, *_WHITEBOARD),
        program(config, SHARED, WALKTHROUGH),
    ]


def local_engines(config: Settings) -> list[Program]:
    """The engines to run here; the store notifies the design that takes its notifications."""
    urls = [
        f"{design.http.url(config)}{design.http.object_events}"
        for design in DESIGNS.values()
        if design.http.object_events
    ]
    return engines(config, next(iter(urls), ""), accounts(DESIGNS.values()))


def program(config: Settings, owner: str, process: HttpApp | Process, *more: str) -> Program:
    """One process as a program."""
    command = (sys.executable, "-m", "services.platform.run", owner, process.name, *more)
    ports = {process.port_setting: process.port(config)}
    environment = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return Program(process.name, command, ports, environment, process.nice)


def _programs(
    config: Settings, owner: str, process: HttpApp | Process, count: int
) -> Iterator[Program]:
    """One, or those that share its work."""
    if isinstance(process, HttpApp):
        yield from _sharing(config, owner, process, count)
        return
    first = program(config, owner, process)
    yield first
    for number in range(1, count):
        port = process.port(config, number)
        run, rest = first.command[:3], first.command[3:]
        command = (*run, "--port", str(port), *rest, "--worker", str(number))
        ports = {process.port_setting: port}
        yield replace(first, name=process.instance(number), command=command, ports=ports)


def _sharing(config: Settings, owner: str, app: HttpApp, count: int) -> Iterator[Program]:
    """The processes that share a port; the one of an app that shares none."""
    first = program(config, owner, app)
    if not app.shares_port:
        yield first
        return
    for number in range(count):
        name = app.instance(number)
        own = {"WHITEBOARD_INSTANCE": name, "WHITEBOARD_BUILD": config.build or build_label()}
        environment = {**first.environment, **own}
        yield replace(first, name=name, environment=environment, drains=True)


@cache
def build_label() -> str:
    """What runs here: the checkout's commit, with a + where it was changed; or the version."""
    try:
        done = subprocess.run(
            ("git", "describe", "--always", "--dirty=+"),
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return version("whiteboard")
    return done.stdout.strip()


def counts(config: Settings, designs: Iterable[Design]) -> dict[str, int]:
    """By process that others share the work of, how many there are to be."""
    designs = tuple(designs)
    every = (process for design in designs for process in design.processes)
    workers = {p.name: p.instances.count(config) for p in every if p.instances is not None}
    return workers | {d.http.name: d.http.processes(config) for d in designs}
