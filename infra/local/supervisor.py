"""Processes run and kept running by Supervisor (http://supervisord.org), one instance a home.

Everything it runs, and their logs, belong to `settings.home`; it listens on a Unix socket there, or
where the home's path is too long for one, in a folder of this user below /tmp.
"""

import contextlib
import hashlib
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xmlrpc.client import Fault, ServerProxy, Transport

from infra.local.engines import Program, environment, taken
from services.platform.settings import Settings

# Not imported before it is needed: `--help` imports this module.
if TYPE_CHECKING:
    import psutil

_STOP_WAIT_S = 20
_ALREADY_STARTED, _NOT_RUNNING = 60, 70  # supervisor.xmlrpc.Faults
# The path of a Unix socket has at most 107 bytes (unix(7)), and Supervisor appends its process id.
_MAX_SOCKET_PATH = 107 - len(".4194304")


class PortTaken(OSError):
    """A port we need is in use; the message names it and the setting that moves it."""


class _SocketTransport(Transport):
    """XML-RPC over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        connection = HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self._path)
        return connection


class Supervisor:
    """The process manager of one home folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = settings.home.resolve()
        self._conf = self._home / "conf" / "supervisord.conf"
        self._socket = _socket_path(self._home)
        self.logs = self._home / "logs"

    def start(self, programs: list[Program], only: str = "") -> set[str]:
        """Start the manager and all programs that do not run yet.

        Args:
            only: The one to start, of all that this home has; empty: all.

        Returns:
            Names of the programs that ran already.

        Raises:
            PortTaken: another program listens where one of them has to.
            RuntimeError: a program does not stay up, the message quotes the end of its log; or
                settings changed since the manager was started, and it hands on those of then.
        """
        running = {name for name, state in self.states().items() if state == "RUNNING"}
        missing = [p for p in programs if p.name not in running and only in ("", p.name)]
        if missing:
            if changed := self.changed_settings():
                raise RuntimeError(
                    f"what runs was started with another {', '.join(changed)}: `whiteboard down`, "
                    "then `whiteboard up`"
                )
            if not self.alive() and self._unreachable():
                raise RuntimeError(
                    f"what {self._home} held was deleted while it ran: `whiteboard down`, then "
                    "`whiteboard up`"
                )
            ours = {port for p in programs if p.name in running for port in p.ports.values()}
            for program in missing:
                self._check_ports(program, ours if program.drains else set())
            self._write_conf(programs)
            if not self.alive():
                self._launch()
            else:
                self._rpc().supervisor.reloadConfig()
            self._start_missing(missing)
        return running

    def stop(self, step: Callable[[str], None]) -> bool:
        """Stop everything in reverse order, then the manager. False if it did not run."""
        import psutil

        if not self.alive():
            return self._stop_unreachable()
        rpc = self._rpc()
        states = rpc.supervisor.getAllProcessInfo()
        pid = rpc.supervisor.getPID()
        for info in sorted(states, key=lambda info: -_PRIORITY.get(info["name"], 50)):
            step(info["name"])
            try:
                rpc.supervisor.stopProcess(info["name"], True)
            except Fault:  # was not running
                continue
        rpc.supervisor.shutdown()
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).wait(_STOP_WAIT_S)
        return True

    def _stop_unreachable(self) -> bool:
        """Stop a manager whose socket is gone, as after `rm -r` of its home. False without one."""
        import psutil

        found = self._unreachable()
        for manager in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                manager.terminate()  # it stops what it runs first
                manager.wait(2 * _STOP_WAIT_S)
        return bool(found)

    def _unreachable(self) -> "list[psutil.Process]":
        """The managers of this home and this user, found by their command line."""
        import psutil

        command = ["-m", "supervisor.supervisord", "-c", str(self._conf)]
        return [
            process
            for process in psutil.process_iter(["cmdline", "uids"])
            if (process.info["cmdline"] or [])[1:] == command
            and process.info["uids"].real == os.getuid()
        ]

    def alive(self) -> bool:
        """Whether the manager answers."""
        try:
            return bool(self._rpc().supervisor.getState()["statecode"] == 1)
        except (OSError, Fault):
            return False

    def changed_settings(self) -> list[str]:
        """Names of the settings in the environment that are not what the manager was given."""
        import psutil

        if not self.alive():
            return []
        with contextlib.suppress(psutil.Error):
            then = psutil.Process(self._rpc().supervisor.getPID()).environ()
            names = {n for n in then | environment() if _OF_PROCESSES.fullmatch(n)}
            now = self._environment()
            return sorted(name for name in names if then.get(name) != now.get(name))
        return []

    def states(self) -> dict[str, str]:
        """State of each process by name, empty while the manager does not run."""
        if not self.alive():
            return {}
        return {i["name"]: i["statename"] for i in self._rpc().supervisor.getAllProcessInfo()}

    def pids(self) -> dict[str, int]:
        """Process ids by name, of those that run."""
        if not self.alive():
            return {}
        infos = self._rpc().supervisor.getAllProcessInfo()
        return {i["name"]: i["pid"] for i in infos if i["pid"]}

    def resident_mb(self) -> float:
        """Memory of all processes and their children together, MB: shared pages counted once."""
        roots = list(self.pids().values())
        if not roots:
            return 0.0
        roots.append(int(self._rpc().supervisor.getPID()))
        family = {p for root in roots for p in _family(root)}
        return sum(_proportional_mb(p) for p in family)

    def take_away(self, name: str) -> None:
        """Stop one process and leave it stopped; one that is stopped stays so."""
        try:
            self._rpc().supervisor.stopProcess(name, True)
        except Fault as fault:
            if fault.faultCode != _NOT_RUNNING:
                raise RuntimeError(f"{name} does not stop: {fault.faultString}") from fault

    def bring_back(self, name: str) -> None:
        """Start one process again, unless another command did. RuntimeError if it fails."""
        try:
            self._rpc().supervisor.startProcess(name, True)
        except Fault as fault:
            if fault.faultCode != _ALREADY_STARTED:
                raise RuntimeError(
                    f"{name} does not start ({fault.faultString}): `whiteboard up`"
                ) from fault

    def drain(self, name: str, seconds: float) -> bool:
        """Let one process finish and end. False if it still runs after so many seconds."""
        with contextlib.suppress(Fault):  # it does not run
            self._rpc().supervisor.signalProcess(name, "USR1")
        end = time.monotonic() + seconds
        while self.states().get(name) == "RUNNING":
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def remove(self, name: str) -> None:
        """Stop one process and forget it; `start` knows it again."""
        with contextlib.suppress(Fault):  # it was not running
            self._rpc().supervisor.stopProcess(name, True)
        self._rpc().supervisor.removeProcessGroup(name)

    def _rpc(self) -> Any:
        if self._socket.parent != self._home and self._socket.parent.exists():
            _check_private(self._socket.parent)
        return ServerProxy("http://localhost", transport=_SocketTransport(str(self._socket)))

    def _check_ports(self, program: Program, shared: set[int]) -> None:
        for setting, port in program.ports.items():
            if port not in shared and taken(self._settings.host, port):
                raise PortTaken(
                    f"port {port}, where {program.name} has to listen, is taken: free it, or set "
                    f"WHITEBOARD_{setting.upper()} to another one"
                )

    def _launch(self) -> None:
        if self._socket.parent != self._home:
            self._socket.parent.mkdir(mode=0o700, exist_ok=True)
            _check_private(self._socket.parent)
        self._socket.unlink(missing_ok=True)
        # Its own session, so that Ctrl-C in the terminal that ran `up` does not reach it.
        subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._conf)],
            check=True,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            env=self._environment(),
        )
        end = time.monotonic() + 10
        while not self.alive():
            if time.monotonic() > end:
                raise RuntimeError(f"supervisord did not start: see {self.logs}/supervisord.log")
            time.sleep(0.05)

    def _environment(self) -> dict[str, str]:
        return {**environment(), "WHITEBOARD_HOME": str(self._home)}

    def _start_missing(self, programs: list[Program]) -> None:
        """Start programs at the same time, and wait until each has stayed up for a second."""
        rpc = self._rpc()
        states = self.states()
        for program in programs:
            if program.name not in states:
                rpc.supervisor.addProcessGroup(program.name)
            try:
                rpc.supervisor.startProcess(program.name, False)
            except Fault as fault:
                if fault.faultCode != _ALREADY_STARTED:
                    raise self._failed(program, fault.faultString) from None
        waiting = {program.name: program for program in programs}
        while waiting:
            time.sleep(0.05)
            for name, state in self.states().items():
                if name in waiting and state == "RUNNING":
                    del waiting[name]
                elif name in waiting and state != "STARTING":
                    raise self._failed(waiting[name], state)

    def _failed(self, program: Program, why: str) -> RuntimeError:
        log = self.log_tail(program.name)
        return RuntimeError(f"{program.name} does not start ({why}); the end of its log:\n{log}")

    def log_tail(self, name: str) -> str:
        """The last lines of a process's log."""
        log = self.logs / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
        return "\n".join(lines) or "(empty)"

    def _write_conf(self, programs: list[Program]) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        self._conf.parent.mkdir(parents=True, exist_ok=True)
        known = {p.name: p for p in programs}
        inside = self._socket.parent == self._home
        sections = [_HEAD.format(socket=_SOCKET if inside else self._socket)]
        sections += [self._section(p) for p in known.values()]
        self._conf.touch(mode=0o600)
        self._conf.write_text("\n".join(sections), encoding="utf-8")

    def _section(self, program: Program) -> str:
        # Supervisor's own `environment` cannot quote every value.
        variables = (f"{name}={value}" for name, value in program.environment.items())
        words = ("env", *variables, "nice", "-n", str(program.nice), *program.command)
        return _PROGRAM.format(
            name=program.name,
            command=" ".join(_quoted(word) for word in words),
            directory=self._directory(program),
            priority=_PRIORITY.get(program.name, 50),
            # An end with status 0 is expected.
            restart="unexpected" if program.drains else "true",
        )

    def _directory(self, program: Program) -> str:
        """A program's working directory as a line; without one, it is the one of `up`."""
        if program.directory is None:
            return ""
        below = os.path.relpath(program.directory, self._conf.parent)
        return f"directory=%(here)s/{below}\n"


# The settings that processes read. How many there are, and what runs, `up` and `deploy` tell each.
_OF_PROCESSES = re.compile(r"WHITEBOARD_(?!BUILD$|[A-Z_]+_PROCESSES$).*")

# Engines first up and last down.
_PRIORITY = {"nats": 1, "redis": 2, "seaweedfs": 3}

# Relative to the file, so that the home's path, which may have any character, is not in it.
_SOCKET = "%(here)s/../supervisor.sock"

_HEAD = """; Written by `whiteboard up`.
[unix_http_server]
file={socket}
chmod=0600

[supervisord]
logfile=%(here)s/../logs/supervisord.log
pidfile=%(here)s/../supervisord.pid
childlogdir=%(here)s/../logs
minfds=8192

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

_PROGRAM = """[program:{name}]
command={command}
{directory}priority={priority}
autostart=false
autorestart={restart}
startsecs=1
startretries=3
stopwaitsecs=15
stopasgroup=true
killasgroup=true
redirect_stderr=true
; Supervisor expands this one twice.
stdout_logfile=%%(here)s/../logs/{name}.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=2
"""


def _quoted(part: str) -> str:
    """A word of Supervisor's command line, where % and a ; or # after a space have a meaning.

    >>> print(_quoted("a b"), _quoted("50%"), _quoted("a ;b"))
    'a b' 50%% 'a '';b'
    """
    return re.sub(r"(\s)([;#])", r"\1''\2", shlex.quote(part.replace("%", "%%")))


def _socket_path(home: Path) -> Path:
    """Where the manager of a home listens: in the home unless its path is too long."""
    inside = home / "supervisor.sock"
    if len(os.fsencode(inside)) <= _MAX_SOCKET_PATH:
        return inside
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(f"/tmp/whiteboard-{os.getuid()}/{name}.sock")


def _check_private(folder: Path) -> None:
    """PermissionError if others can enter a folder, who could listen there in our place."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{folder} must be a folder that only you can enter: remove it, or set WHITEBOARD_HOME "
            "to a shorter path"
        )


def _family(pid: int) -> "list[psutil.Process]":
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _proportional_mb(process: "psutil.Process") -> float:
    import psutil

    try:
        return float(process.memory_full_info().pss) / 1e6
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
