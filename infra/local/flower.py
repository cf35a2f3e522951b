"""A federation as local processes: Flower's SuperLink, and a SuperNode for each bank.

They run in a Python environment of their own: its packages conflict with the project's.
TLS from each SuperNode to the SuperLink, which admits only nodes whose public key was registered.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.local.certificates import AUTHORITY, CERTIFICATE, KEY, write_certificates
from infra.local.engines import Program, environment, taken
from infra.local.flower_keys import write_key
from infra.local.supervisor import Supervisor
from services.platform.design import DEFERRABLE_NICE, WORKER_NICE
from services.platform.settings import Settings, settings

OnLine = Callable[[str], None]
_CONNECTION = "banks"
_EVERY_ADDRESS = "0.0.0.0"
DEFAULT_PORT = "19520"
_START_S = 60
_STARTED = re.compile(r"Successfully started run (\d+)")


class NoFlower(FileNotFoundError):
    """The environment with Flower is not there; the message says how to make it."""


def environment_folder() -> Path:
    """The environment with Flower: beside the one this runs in, unless the variable says where.

    Raises:
        NoFlower: there is none.
    """
    beside = Path(sys.prefix).parent / ".venv-federated"
    folder = Path(settings().value("federated_env", str(beside)))
    if not (folder / "bin" / "flower-superlink").exists():
        raise NoFlower(f"no Flower in {folder}: `make federated-setup` installs it")
    return folder


def variables(flower_home: Path) -> dict[str, str]:
    """Environment variables of every process of the federation."""
    folder = environment_folder()
    return {
        "PATH": f"{folder / 'bin'}:{environment()['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONWARNINGS": "ignore",
        "FLWR_HOME": str(flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        # A second otherwise, for each message; at 0.05, five pollers take half a processor.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
        # A processor a bank: with more, their threads wait for each other.
        "OMP_NUM_THREADS": "1",
    }


def run_module(module: str, arguments: Sequence[str], home: Path, on_line: OnLine) -> None:
    """Run a module in the environment with Flower, to its end.

    Args:
        home: Folder for Flower's own files.
        on_line: Called with each line that it prints.

    Raises:
        RuntimeError: it failed; the message quotes its end.
    """
    command = ("python", "-m", module, *arguments)
    code, lines = _follow(command, variables(home), on_line)
    if code:
        raise RuntimeError(f"{module} failed:\n" + "\n".join(lines[-8:]))


def _follow(
    command: tuple[str, ...], added: Mapping[str, str], on_line: OnLine
) -> tuple[int, list[str]]:
    """Run a command in a process group of its own. Returns its exit status and its lines."""
    lines: list[str] = []
    program = str(environment_folder() / "bin" / command[0])
    with subprocess.Popen(
        (program, *command[1:]), env={**environment(), **added}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                on_line(lines[-1])
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, lines


class Federation:
    """A SuperLink and its SuperNodes, started on entry and stopped on exit."""

    def __init__(
        self,
        settings: Settings,
        nodes: Mapping[str, Mapping[str, Any]],
        executor: str,
        names: Iterable[str] = (),
    ) -> None:
        """Prepare, without starting anything.

        Args:
            settings: The folder `federated` in its home holds keys, logs and state.
            nodes: By SuperNode, its configuration, which its ClientApp reads.
            executor: Module that starts a SuperNode's ClientApp for each message; it takes the
                arguments of `flower-superexec`.
            names: Further names by which SuperNodes elsewhere call this machine.
        """
        self._home = (settings.home / "federated").resolve()
        self._bind = settings.host
        self._host = "127.0.0.1" if settings.host == _EVERY_ADDRESS else settings.host
        self._names = (self._host, *names)
        self._port = int(settings.value("superlink_port", DEFAULT_PORT))
        self._nodes = nodes
        self._executor = executor
        self._supervisor = Supervisor(settings.model_copy(update={"home": self._home}))

    def __enter__(self) -> "Federation":
        self._home.mkdir(parents=True, exist_ok=True)
        write_certificates(self._home / "tls", "superlink", self._names)
        self._write_connection()
        try:
            self._supervisor.start([self._superlink()])
            self._wait_for_superlink()
            for name in self._nodes:
                write_key(self._home / "keys", name)
                self.register(self._key(name).with_suffix(".pub"))
            nodes = [of(name) for name in self._nodes for of in (self._apps, self._supernode)]
            self._supervisor.start([self._superlink(), *nodes])
        except BaseException:
            self._supervisor.stop(lambda _: None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._supervisor.stop(lambda _: None)

    @property
    def authority(self) -> Path:
        """The certificate by which SuperNodes know the SuperLink."""
        return self._home / "tls" / AUTHORITY

    def register(self, public_key: Path) -> None:
        """Admit the SuperNode of a key."""
        self._flwr("supernode", "register", str(public_key), _CONNECTION)

    def run(self, app: Path, config: Mapping[str, Any], on_line: OnLine) -> int:
        """Run a Flower app to its end.

        Args:
            app: Its folder.
            config: What its ServerApp reads.
            on_line: Called with each line that the ServerApp prints.

        Returns:
            The bytes of all messages from the banks, as the SuperLink counts them.

        Raises:
            RuntimeError: the run failed; the message quotes its end.
        """
        command = (
            "flwr", "run", str(app), _CONNECTION, "--run-config", _pairs(config), "--stream",
        )  # fmt: skip
        _, lines = _follow(command, self._variables("cli"), on_line)
        found = _STARTED.search("\n".join(lines))
        if not found:
            raise RuntimeError("the run did not start:\n" + "\n".join(lines[-8:]))
        listed = self._flwr("list", _CONNECTION, "--run-id", found[1], "--format", "json")
        run = json.loads(listed[listed.index("{") :])["runs"][0]
        if run["status"] != "finished:completed":
            raise RuntimeError(f"the run is {run['status']}:\n" + "\n".join(lines[-12:]))
        return int(run["network-traffic"]["inbound-bytes"])

    def kill(self, name: str) -> None:
        """Stop a SuperNode with what it runs, and leave it stopped."""
        for program in (name, _apps_of(name)):
            self._supervisor.take_away(program)

    def start(self, name: str) -> None:
        """Start a SuperNode again."""
        for program in (_apps_of(name), name):
            self._supervisor.bring_back(program)

    def logs(self, name: str) -> str:
        """What a process printed."""
        return (self._supervisor.logs / f"{name}.log").read_text(errors="replace")

    def supernode_command(self, name: str, key: Path, port: int) -> tuple[str, ...]:
        """The command of a SuperNode that identifies itself by a key."""
        superlink, config = f"{self._host}:{self._port}", self._nodes.get(name, {})
        command = supernode_command(superlink, self.authority, key, config)
        return (*command, "--host", self._host, "--port", str(port))

    def _wait_for_superlink(self) -> None:
        end = time.monotonic() + _START_S
        while not taken(self._host, self._port):
            if time.monotonic() > end:
                raise RuntimeError(f"no SuperLink after {_START_S} s:\n{self.logs('superlink')}")
            time.sleep(0.1)

    def _superlink(self) -> Program:
        tls = self._home / "tls"
        command = (
            str(environment_folder() / "bin" / "flower-superlink"),
            "--host", self._bind, "--port", str(self._port),
            "--ssl-ca-certfile", str(tls / AUTHORITY), "--ssl-certfile", str(tls / CERTIFICATE),
            "--ssl-keyfile", str(tls / KEY), "--enable-supernode-auth",
        )  # fmt: skip
        return self._program("superlink", command, self._port)

    def _supernode(self, name: str) -> Program:
        port = self._port_of(name)
        command = (*self.supernode_command(name, self._key(name), port), "--isolation", "process")
        return self._program(name, command, port)

    def _apps(self, name: str) -> Program:
        """What runs a SuperNode's ClientApp; it waits for the SuperNode."""
        command = (
            str(environment_folder() / "bin" / "python"), "-m", self._executor, "--insecure",
            "--runtime-api-address", f"{self._host}:{self._port_of(name)}",
        )  # fmt: skip
        # Training leaves the processor to Flower's heartbeats: a minute without them ends a run.
        return Program(_apps_of(name), command, {}, self._variables(name), DEFERRABLE_NICE)

    def _port_of(self, name: str) -> int:
        return self._port + 1 + list(self._nodes).index(name)

    def _program(self, name: str, command: tuple[str, ...], port: int) -> Program:
        return Program(name, command, {"superlink_port": port}, self._variables(name), WORKER_NICE)

    def _variables(self, name: str) -> dict[str, str]:
        return variables(self._home / "flower" / name)

    def _key(self, name: str) -> Path:
        return self._home / "keys" / name

    def _write_connection(self) -> None:
        folder = self._home / "flower" / "cli"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "{_CONNECTION}"\n\n[superlink.{_CONNECTION}]\n'
            f'address = "{self._host}:{self._port}"\n'
            f'root-certificates = "{self.authority}"\n'
        )

    def _flwr(self, *words: str) -> str:
        code, lines = _follow(("flwr", *words), self._variables("cli"), lambda _: None)
        if code:
            raise RuntimeError(f"flwr {' '.join(words[:2])}:\n" + "\n".join(lines[-8:]))
        return "\n".join(lines)


def supernode_command(
    superlink: str, authority: Path, key: Path, config: Mapping[str, Any]
) -> tuple[str, ...]:
    """The command of a SuperNode.

    Args:
        superlink: Where the SuperLink listens, host:port.
        authority: The certificate that signed the SuperLink's.
        key: By which it identifies itself.
        config: What its ClientApp reads.
    """
    return (
        str(environment_folder() / "bin" / "flower-supernode"), "--superlink", superlink,
        "--root-certificates", str(authority), "--auth-supernode-private-key", str(key),
        *(("--node-config", _pairs(config)) if config else ()),
    )  # fmt: skip


def _apps_of(name: str) -> str:
    return f"{name}-apps"


def _pairs(config: Mapping[str, Any]) -> str:
    """A configuration as Flower's command line takes it; single quotes pass through Supervisor."""
    return " ".join(
        f"{key}='{value}'" if isinstance(value, str) else f"{key}={json.dumps(value)}"
        for key, value in config.items()
    )
