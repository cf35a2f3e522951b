"""The processes of one service on this machine: how they find each other and share a socket.

Each answers on a Unix socket of its name in the service's folder: a process that starts gets the
listening socket from one that runs, and a command asks any one of them whether it is ready. The
listening socket stays open as long as any process has it, so connections that wait in its queue
are never reset while processes come and go.
"""

import fcntl
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from services.platform.secret_files import make_private

log = logging.getLogger(__name__)

Ready = Callable[[], Mapping[str, Any]]

_LISTEN, _READY = b"listen", b"ready"
_SUFFIX = ".sock"
# One that was stopped or hangs does not answer; the next one is asked.
_TIMEOUT_S = 1.0
_MAX_ANSWER = 65_536


def shared_folder(home: Path, service: str) -> Path:
    """Where the processes of a service find each other."""
    return home / service / "shared"


def number_of(name: str, service: str) -> int | None:
    """Index of a process among its siblings, or None.

    >>> [number_of(name, "scorer") for name in ("scorer", "scorer-2", "scorer-x", "other")]
    [0, 2, None, None]
    """
    found = re.fullmatch(rf"{re.escape(service)}(?:-([1-9][0-9]*))?", name)
    return int(found[1] or 0) if found else None


def names(folder: Path) -> list[str]:
    """Processes that run, or were killed and did not start again."""
    return sorted(path.stem for path in folder.glob(f"*{_SUFFIX}"))


def ask_ready(folder: Path, name: str) -> dict[str, Any] | None:
    """What one process says of its readiness; None if it does not answer."""
    try:
        with _connected(folder, name) as there:
            there.sendall(_READY)
            answer = b""
            while part := there.recv(_MAX_ANSWER):
                answer += part
        return dict(orjson.loads(answer))
    except (OSError, ValueError):
        return None


class Member:
    """A process among those that share its port.

    Attributes:
        name: Its name.
        folder: Where they find each other.
        first: Whether no other one ran when it started.
        listener: The shared socket, bound; each process begins to listen when it can answer.
        ready: Returns what `ask_ready` returns there; called by a thread.
    """

    def __init__(self, folder: Path, name: str, host: str, port: int) -> None:
        """Get the socket from another process, or bind it.

        Raises:
            OSError: the port is taken, by a process that is none of them or does not answer.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.folder = name, make_private(folder)
        self.ready: Ready = lambda: {"accepts": False}
        # Two that start at once: the second asks the first.
        with _locked(folder / "lock"):
            found = self._from_another()
            self.first = found is None
            self.listener = found or _bound(host, port)
            self._server = self._answering()

    def others(self) -> list[str]:
        """Names of the other ones."""
        return [name for name in names(self.folder) if name != self.name]

    def leave(self) -> None:
        """Let others neither find this process nor get its socket."""
        with suppress(FileNotFoundError):
            (self.folder / f"{self.name}{_SUFFIX}").unlink()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # ends the thread's `accept`
        self._server.close()
        self.listener.close()

    def _from_another(self) -> socket.socket | None:
        for name in self.others():
            with suppress(OSError), _connected(self.folder, name) as there:
                there.sendall(_LISTEN)
                _, files, _, _ = socket.recv_fds(there, 1, 1)
                if files:
                    os.set_inheritable(files[0], False)
                    return socket.socket(fileno=files[0])
        return None

    def _answering(self) -> socket.socket:
        """The own Unix socket, answered by a thread: a process that loads its model hands over."""
        server = socket.socket(socket.AF_UNIX)
        with _short_path(self.folder, self.name) as path:
            with suppress(FileNotFoundError):
                os.unlink(path)
            server.bind(path)
        server.listen()
        threading.Thread(target=self._answer_forever, args=(server,), daemon=True).start()
        return server

    def _answer_forever(self, server: socket.socket) -> None:
        while True:
            try:
                there, _ = server.accept()
            except OSError:  # closed
                return
            with suppress(OSError, ValueError), there:
                there.settimeout(_TIMEOUT_S)
                self._answer(there)

    def _answer(self, there: socket.socket) -> None:
        asked = there.recv(16)
        if asked == _LISTEN:
            socket.send_fds(there, [b"1"], [self.listener.fileno()])
        elif asked == _READY:
            there.sendall(orjson.dumps(dict(self.ready())))


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"{host}:{port}: {error.strerror}") from None
    return made


@contextmanager
def _connected(folder: Path, name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as there, _short_path(folder, name) as path:
        there.settimeout(_TIMEOUT_S)
        there.connect(path)
        yield there


@contextmanager
def _short_path(folder: Path, name: str) -> Iterator[str]:
    """A socket's path, which may have 107 bytes, however long the folder's is (proc(5))."""
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{name}{_SUFFIX}"
    finally:
        os.close(directory)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
