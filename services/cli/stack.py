"""Start and stop what runs here: engines, then the designs' services."""

import socket
import sys
import time
import urllib.error
import urllib.request

from infra.local.engines import Process, engines
from infra.local.supervisor import Supervisor
from services.cli.output import fail
from services.cv_inspection import design as cv
from services.fraud import design as fraud
from services.platform.design import LAST, Service
from services.platform.settings import Settings

_READY_S = 60.0


def services(config: Settings) -> list[Service]:
    """Both designs' processes, and the scheduler that serves both."""
    names = (fraud.DESIGN.name, cv.DESIGN.name)
    port = {"metrics_port": config.metrics_port + 3}
    scheduler = Service("scheduler", "services.platform.retraining.scheduler", names, port, LAST)
    return [*fraud.services(config), *cv.services(config), scheduler]


def service_processes(config: Settings) -> list[Process]:
    """The services as processes of this machine."""
    forced = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return [
        Process(
            s.name, (sys.executable, "-m", s.module, *s.arguments), dict(s.ports), forced, s.nice
        )
        for s in services(config)
    ]


def start_engines(config: Settings) -> Supervisor:
    """Start the engines and wait until they answer. Ends the command if they do not."""
    supervisor = Supervisor(config)
    wanted = engines(config)
    _start(supervisor, wanted)
    for process in wanted:
        for port in process.ports.values():
            _wait_for_port(config.host, port, process.name)
    _wait_for_bucket(config)
    return supervisor


def start_services(config: Settings, supervisor: Supervisor) -> None:
    """Start the services beside the engines and wait until scorer and inspector are ready."""
    wanted = service_processes(config)
    _start(supervisor, [*engines(config), *wanted])
    _wait_for_url(f"{config.scorer}/readyz", "scorer")
    _wait_for_url(f"{config.inspector}/readyz", "inspector")
    for process in wanted:
        for port in process.ports.values():
            _wait_for_port(config.host, port, process.name)


def _start(supervisor: Supervisor, wanted: list[Process]) -> None:
    try:
        supervisor.start(wanted)
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
