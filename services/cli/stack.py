"""Start what runs here: the engines, then the processes of every design."""

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence

from rich.markup import escape

from infra.local.engines import Program
from infra.local.rolling import Rolling
from infra.local.supervisor import Supervisor
from services.cli.made_beside import MadeBeside
from services.cli.options import DESIGNS, FIRST, errors_as_messages
from services.cli.output import bar, err, fail, say
from services.cli.programs import counts, local_engines, program, programs
from services.cli.sigterm import cleanup_at_sigterm
from services.platform.design import DEFERRABLE_NICE, WALKTHROUGH, Design, Process
from services.platform.models.names import served_path
from services.platform.progress import noted, progress_folder
from services.platform.run import SHARED
from services.platform.runtime.worker import lower_priority
from services.platform.secret_files import make_secret, secrets_folder
from services.platform.settings import Settings
from services.walkthrough.token import page_url

# A scorer that shared two busy cores with training needed 60 s (2026-11-28).
_READY_S = 180.0
_LOADED_S = 600.0


def change_count(config: Settings, supervisor: Supervisor, process: Process, count: int) -> None:
    """Have so many processes share a running process's work. Failure ends the command."""
    if process.instances is None:
        raise ValueError(f"{process.name} has no others that share its work")
    designs = list(DESIGNS.values())
    before = kept = process.instances.count(config)
    try:
        if count > before:  # the new ones wait until something is assigned to them
            with err.status(f"starting {process.name} {before} to {count - 1}"):
                start_services(config, supervisor, designs, {process.name: count})
        with err.status("handing over"), errors_as_messages():
            process.instances.change(config, count)
        kept = count
    finally:
        _stop_others(config, supervisor, process, kept)


def _stop_others(config: Settings, supervisor: Supervisor, process: Process, count: int) -> None:
    """Stop the processes beyond a number."""
    names = {process.instance(number) for number in range(count, config.shards)}
    for name in sorted(names & set(supervisor.states())):
        supervisor.remove(name)


def bring_up(config: Settings, seed: int, days: int) -> Supervisor:
    """Start everything, showing progress. Ends the command where that fails."""
    with cleanup_at_sigterm(), StackStart(config, seed, days) as start:
        for design in DESIGNS.values():
            start.design(design)
    return start.supervisor


class StackStart:
    """A stack that starts design by design.

    At a first start all but the first design are made by processes of their own, at idle priority:
    the first is up sooner, and what it does then goes on beside the others' training.

    Attributes:
        supervisor: The process manager.
    """

    def __init__(self, config: Settings, seed: int, days: int) -> None:
        """Start the page and the engines, and the processes that make what is missing."""
        self._config, self._seed, self._days = config, seed, days
        with errors_as_messages():  # before anything starts
            for design in DESIGNS.values():
                design.http.processes(config)
        start_page(config)
        with err.status("starting NATS, Redis, SeaweedFS"):
            self.supervisor = start_engines(config)
        _sign_old_models(config)
        self._up: list[Design] = []
        from services.platform.storage.lake import Lake

        others = [design for design in DESIGNS.values() if design is not FIRST]
        self._made_beside = {
            design.name: MadeBeside(config, design, seed, days)
            for design in others
            if not Lake(config).exists(served_path(design.name))
        }

    def __enter__(self) -> "StackStart":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._made_beside.values():
            one.stop()

    def design(self, design: Design) -> None:
        """Make what is missing of a design, and start its processes. Failure ends the command."""
        beside = self._made_beside.pop(design.name, None)
        if beside is not None:
            beside.wait()
        bootstrap_missing(self._config, [design], self._seed, self._days)
        self._up.append(design)
        with err.status(f"starting {design.title}"):
            start_services(self._config, self.supervisor, self._up)


def _sign_old_models(config: Settings) -> None:
    """Sign what serves in a home from before models were signed; it has no key yet."""
    from services.platform.models.checks.signature import has_key, make_key

    if has_key(config):
        return
    from services.platform.models.served_file import sign_unsigned

    make_key(config)
    with errors_as_messages():
        signed = [design.name for design in DESIGNS.values() if sign_unsigned(config, design.name)]
    if signed:
        say(f"the models of {', '.join(signed)} are signed now: others are not served")


def bootstrap_missing(
    config: Settings, designs: Iterable[Design], seed: int, days: int, idle: bool = False
) -> bool:
    """Make history and champions where they are missing. Returns whether they were.

    Args:
        designs: Whose.
        seed: Of simulation and training.
        days: Of history.
        idle: Leave the processor to everything else.
    """
    if idle:
        lower_priority(os.getpid())
        os.nice(DEFERRABLE_NICE)  # for systems without an idle class
    folder = progress_folder(config.home)
    with errors_as_messages():
        made = [one.bootstrap(config, seed, days, noted(folder, one.name, bar)) for one in designs]
    return any(made)


def start_page(config: Settings) -> None:
    """Start the walkthrough before everything else, and print its address."""
    supervisor = Supervisor(config)
    _note_first_secrets(config, supervisor)
    if supervisor.pids().keys() <= {WALKTHROUGH.name} and supervisor.changed_settings():
        supervisor.stop(lambda _: None)  # an `up` that failed left it; this one has other settings
    # It reads its password as it starts.
    make_secret(config.home, WALKTHROUGH.name)
    with err.status("starting the walkthrough"):
        _start(supervisor, [program(config, SHARED, WALKTHROUGH)])
    # As text: a terminal makes a link of it, and Rich would colour it in parts.
    err.print(f"the walkthrough: {page_url(config)}", markup=False, highlight=False, soft_wrap=True)


def start_engines(config: Settings) -> Supervisor:
    """Start the engines and wait until they answer. Ends the command if they do not."""
    supervisor = Supervisor(config)
    _note_first_secrets(config, supervisor)
    wanted = local_engines(config)
    running = _start(supervisor, [*wanted, program(config, SHARED, WALKTHROUGH)])
    for one in wanted:
        for port in one.ports.values():
            _wait_for_port(config.host, port, one.name)
    if "seaweedfs" not in running:
        _wait_for_bucket(config)
    if "redis" not in running:
        _wait_for_redis(config)
    return supervisor


def _note_first_secrets(config: Settings, supervisor: Supervisor) -> None:
    """Announce that an old home gets secrets, and stop what runs there by the old password."""
    if (config.home / "conf").exists() and not secrets_folder(config.home).exists():
        say(f"this home gets secrets of its own, in {escape(str(secrets_folder(config.home)))}")
        supervisor.stop(lambda _: None)


def start_services(
    config: Settings,
    supervisor: Supervisor,
    designs: Sequence[Design],
    numbers: Mapping[str, int] | None = None,
) -> None:
    """Start the designs' processes beside the engines and wait until they are ready.

    Args:
        numbers: By process, how many there are where it is not as many as before.
    """
    wanted = programs(config, designs, counts(config, designs) | dict(numbers or {}))
    _start(supervisor, [*local_engines(config), *wanted])
    for design in designs:
        _wait_for_url(f"{design.http.url(config)}/readyz", design.http.name, supervisor)
        if design.http.shares_port:
            with errors_as_messages():
                sharing = Rolling(supervisor, config.home, design.http.name, wanted)
                sharing.settle(design.http.processes(config))
    for one in wanted:
        for port in one.ports.values():
            _wait_for_port(config.host, port, one.name)


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


def _wait_for_url(url: str, name: str, supervisor: Supervisor) -> None:
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
    fail(f"{name} is not ready after {_READY_S:.0f} s: {last}\n{supervisor.log_tail(name)}")


def _wait_for_redis(config: Settings) -> None:
    """Redis listens before it has loaded its file: 1.7 s for 300 MB (2026-11-28)."""
    from redis.exceptions import BusyLoadingError

    from features.cluster.clients import open_redis

    end = time.monotonic() + _LOADED_S
    with open_redis(config) as redis:
        while True:
            try:
                redis.ping()
                return
            except BusyLoadingError:
                if time.monotonic() > end:
                    fail(f"Redis still loads its file after {_LOADED_S:.0f} s: run it again later")
                time.sleep(0.1)


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
