"""Supervisor runs programs whatever the home's path is, and whichever folder it is called from."""

import os
import shutil
import sys
import time
from pathlib import Path

import psutil
import pytest

from infra.local import supervisor as module
from infra.local.engines import Program
from infra.local.supervisor import Supervisor
from services.platform.settings import Settings

pytestmark = pytest.mark.slow

# The test folder is about 60 bytes long. A socket's path may have 107.
HOMES = {
    "odd": "a b, 'q\" 50% %s %(here)s ;x #y ~ größe 图片 [/]",
    "long": "long/" * 30,
    "many bytes, few characters": "图" * 25,
}
ARGUMENTS = ("two words", "q\"uo'te", "50%", "a ;b", "c #d", "$HOME", "größe", "")
PRINT = (
    "import os, sys, time; print(ascii([*sys.argv[1:], os.environ['ODD']]), flush=True); "
    "time.sleep(60)"
)


@pytest.fixture(params=HOMES.values(), ids=HOMES)
def home(request, tmp_path, monkeypatch):
    made = tmp_path / request.param
    made.mkdir(parents=True)
    yield made
    Supervisor(Settings(home=made)).stop(lambda _: None)


def test_programs_run_with_their_arguments_and_logs(home, tmp_path, monkeypatch):
    started = Supervisor(Settings(home=home))
    command = (sys.executable, "-c", PRINT, *ARGUMENTS)
    program = Program("echo", command, environment={"ODD": str(home)}, directory=home / "conf")
    assert started.start([program]) == set()
    monkeypatch.chdir("/")
    seen = Supervisor(Settings(home=home))
    assert seen.states() == {"echo": "RUNNING"}
    assert seen.start([program]) == {"echo"}
    assert os.readlink(f"/proc/{seen.pids()['echo']}/cwd") == str(home / "conf")
    log, end = home / "logs" / "echo.log", time.monotonic() + 10
    while not (log.exists() and log.read_text()):
        assert time.monotonic() < end, "no log"
        time.sleep(0.05)
    assert log.read_text().strip() == ascii([*ARGUMENTS, str(home)])
    assert seen.stop(lambda _: None) is True
    assert started.states() == {}


def test_a_program_that_is_removed_can_be_started_again(tmp_path):
    sleep = (sys.executable, "-c", "import time; time.sleep(60)")
    one, other = Program("one", sleep), Program("other", sleep)
    manager = Supervisor(Settings(home=tmp_path))
    try:
        manager.start([one, other])
        manager.remove("other")
        assert manager.states() == {"one": "RUNNING"}
        assert manager.start([one, other]) == {"one"}
        assert manager.states() == {"one": "RUNNING", "other": "RUNNING"}
    finally:
        manager.stop(lambda _: None)


def test_what_runs_in_a_deleted_home_is_named_and_stopped(tmp_path):
    home = tmp_path / "home"
    program = Program("one", (sys.executable, "-c", "import time; time.sleep(60)"))
    manager = Supervisor(Settings(home=home))
    manager.start([program])
    pid = manager.pids()["one"]
    shutil.rmtree(home)
    with pytest.raises(RuntimeError, match="deleted while it ran: `whiteboard down`"):
        manager.start([program])
    assert psutil.pid_exists(pid)
    assert manager.stop(lambda _: None) is True
    assert not psutil.pid_exists(pid)
    assert manager.stop(lambda _: None) is False


def test_a_socket_folder_that_others_can_enter_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    monkeypatch.setattr(module, "_socket_path", lambda home: folder / "x.sock")
    made = Supervisor(Settings(home=tmp_path / "home"))
    assert made.alive() is False
    with pytest.raises(PermissionError, match="only you can enter"):
        made.start([Program("echo", ("true",))])


def test_a_link_to_a_folder_is_refused_too(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "mine")
    monkeypatch.setattr(module, "_socket_path", lambda home: link / "x.sock")
    with pytest.raises(PermissionError):
        Supervisor(Settings(home=tmp_path / "home")).start([Program("echo", ("true",))])


def test_every_socket_path_fits():
    for length in range(1, 400):
        path = module._socket_path(Path("/" + "é" * length))
        # Supervisor appends a dot and its process id while it binds.
        assert len(os.fsencode(path)) + len(".4194304") <= 107


def test_what_runs_keeps_its_settings_and_a_new_program_is_told_so(tmp_path, monkeypatch):
    sleep = (sys.executable, "-c", "import time; time.sleep(60)")
    one, other = Program("one", sleep), Program("other", sleep)
    manager = Supervisor(Settings(home=tmp_path))
    try:
        manager.start([one])
        for name in ("WHITEBOARD_SCORER_PROCESSES", "WHITEBOARD_BUILD"):
            monkeypatch.setenv(name, "2")
        assert manager.changed_settings() == []
        monkeypatch.setenv("WHITEBOARD_NATS_PORT", "14999")
        assert manager.changed_settings() == ["WHITEBOARD_NATS_PORT"]
        assert manager.start([one]) == {"one"}
        with pytest.raises(RuntimeError, match=r"another WHITEBOARD_NATS_PORT: `whiteboard down`"):
            manager.start([one, other])
        manager.stop(lambda _: None)
        assert manager.start([one, other]) == set()
    finally:
        manager.stop(lambda _: None)
