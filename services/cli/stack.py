"""Start what runs here: the engines, then the processes of every design."""

import socket
import sys
import time
import urllib.error
import urllib.request

from rich.markup import escape

from infra.local.engines import Program, engines
from infra.local.supervisor import Supervisor
from services.cli.options import DESIGNS, errors_as_messages
from services.cli.output import bar, err, fail, say
from services.platform.design import SCHEDULER, WALKTHROUGH, HttpApp, Process, accounts
from services.platform.run import SHARED
from services.platform.secret_files import make_secret, secrets_folder
from services.platform.settings import Settings
from services.walkthrough.token import page_url

_READY_S = 60.0
# The scheduler runs its jobs by this command.
_WHITEBOARD = (sys.executable, "-m", "services.cli.main")


def programs(config: Settings) -> list[Program]:
    """Every design's processes, and the shared ones, as programs of this machine."""
    own = [
        _program(config, design.name, process)
        for design in DESIGNS.values()
        for process in design.everything
    ]
    return [
        *own,
        _program(config, SHARED, SCHEDULER, *_WHITEBOARD),
        _program(config, SHARED, WALKTHROUGH),
    ]


def local_engines(config: Settings) -> list[Program]:
    """The engines to run here; the store notifies the design that takes its notifications."""
    urls = [
        f"{design.http.url(config)}{design.http.object_events}"
        for design in DESIGNS.values()
        if design.http.object_events
    ]
    return engines(config, next(iter(urls), ""), accounts(DESIGNS.values()))


def _program(config: Settings, owner: str, process: HttpApp | Process, *more: str) -> Program:
    command = (sys.executable, "-m", "services.platform.run", owner, process.name, *more)
    ports = {process.port_setting: process.port(config)}
    environment = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return Program(process.name, command, ports, environment, process.nice)


def bring_up(config: Settings, seed: int, days: int) -> Supervisor:
    """Start everything, showing progress. Ends the command where that fails."""
    start_page(config)
    with err.status("starting NATS, Redis, SeaweedFS"):
        supervisor = start_engines(config)
    bootstrap_missing(config, seed, days)
    with err.status("starting services and workers"):
        start_services(config, supervisor)
    return supervisor


def bootstrap_missing(config: Settings, seed: int, days: int) -> bool:
    """Make history and champions where they are missing. Returns whether they were."""
    with errors_as_messages():
        made = [design.bootstrap(config, seed, days, bar) for design in DESIGNS.values()]
    return any(made)


def start_page(config: Settings) -> None:
    """Start the walkthrough before everything else, and print its address."""
    supervisor = Supervisor(config)
    _note_first_secrets(config, supervisor)
    # It reads its password as it starts.
    make_secret(config.home, WALKTHROUGH.name)
    with err.status("starting the walkthrough"):
        _start(supervisor, [_program(config, SHARED, WALKTHROUGH)])
    # As text: a terminal makes a link of it, and Rich would colour it in parts.
    err.print(f"the walkthrough: {page_url(config)}", markup=False, highlight=False, soft_wrap=True)


def start_engines(config: Settings) -> Supervisor:
    """Start the engines and wait until they answer. Ends the command if they do not."""
    supervisor = Supervisor(config)
    _note_first_secrets(config, supervisor)
    wanted = local_engines(config)
    running = _start(supervisor, [*wanted, _program(config, SHARED, WALKTHROUGH)])
    for program in wanted:
        for port in program.ports.values():
            _wait_for_port(config.host, port, program.name)
    if "seaweedfs" not in running:
        _wait_for_bucket(config)
    return supervisor


def _note_first_secrets(config: Settings, supervisor: Supervisor) -> None:
    """Say that a home of before gets secrets; what runs there knows the old password, and ends."""
    if (config.home / "conf").exists() and not secrets_folder(config.home).exists():
        say(f"this home gets secrets of its own, in {escape(str(secrets_folder(config.home)))}")
        supervisor.stop(lambda _: None)


def start_services(config: Settings, supervisor: Supervisor) -> None:
    """Start the designs' processes beside the engines and wait until they are ready."""
    wanted = programs(config)
    _start(supervisor, [*local_engines(config), *wanted])
    for design in DESIGNS.values():
        _wait_for_url(f"{design.http.url(config)}/readyz", design.http.name)
    for program in wanted:
        for port in program.ports.values():
            _wait_for_port(config.host, port, program.name)


def _start(supervisor: Supervisor, wanted: list[Program]) -> set[str]:
    """Start what does not run yet. Returns the names of what did."""
    try:
        return supervisor.start(wanted)
    except (OSError, RuntimeError) as error:
        fail(str(error))


def _wait_for_port(host: str, port: int, name: str) -> None:
    end = time.monotonic() + _READY_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.05)
    fail(f"{name} does not listen on port {port}: see `whiteboard status` for its log")


def _wait_for_url(url: str, name: str) -> None:
    end = time.monotonic() + _READY_S
    last = ""
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError as error:
            last = error.read().decode(errors="replace")[:300]
        except OSError as error:
            last = str(error)
        time.sleep(0.1)
    fail(f"{name} is not ready: {last}")


def _wait_for_bucket(config: Settings) -> None:
    """S3 answers a moment before it takes writes."""
    from services.platform.storage.lake import Lake

    end = time.monotonic() + _READY_S
    while True:
        try:
            Lake(config).put("ready", b"")
            return
        except OSError as error:
            if time.monotonic() > end:
                fail(f"S3 at {config.s3} takes no writes: {error}")
            time.sleep(0.1)
