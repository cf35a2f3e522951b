"""What listens, and what it answers without a credential, is what `inventory.yaml` lists."""

import http.client
import re
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from infra.local.supervisor import Supervisor
from services.cv_inspection.serving.app import create_app as create_inspector
from services.fraud.serving.app import create_app as create_scorer
from services.platform.settings import Settings
from services.walkthrough.app import create_api
from services.walkthrough.app import create_app as create_walkthrough

HERE = Path(__file__).parent
INVENTORY = yaml.safe_load((HERE / "inventory.yaml").read_text())
ENGINES = {"nats": "nats-server", "redis": "redis-server", "seaweedfs": "weed"}
SERVICES = {"scorer": 18080, "inspector": 18081, "walkthrough": 18090}
REFUSED = (401, 403)


def port(settings: Settings, name: str) -> int:
    """The port that a key of the inventory names, such as `metrics_port+3`."""
    setting, _, offset = name.partition("+")
    value = getattr(settings, setting, None) or SERVICES[setting.removesuffix("_port")]
    return int(value) + int(offset or 0)


def listed(settings: Settings, processes: Iterable[str]) -> set[tuple[str, str, int]]:
    """Process, address and port."""
    return {
        (process, settings.host, port(settings, name))
        for process in processes
        for name in INVENTORY["listens"][process]
    }


def listening(name: str, root: psutil.Process) -> set[tuple[str, str, int]]:
    """What a process and its children listen on."""
    return {
        (name, found.laddr.ip, found.laddr.port)
        for process in (root, *root.children(recursive=True))
        for found in process.net_connections("inet")
        if found.status == psutil.CONN_LISTEN
    }


def root_status(host: str, number: int) -> int | str:
    """Status of `GET /`, or "none"."""
    connection = http.client.HTTPConnection(host, number, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    except (http.client.HTTPException, OSError):
        return "none"
    finally:
        connection.close()


def check_answers(settings: Settings, processes: Iterable[str]) -> None:
    for process in processes:
        for name, status in INVENTORY["listens"][process].items():
            assert root_status(settings.host, port(settings, name)) == status, (process, name)


def test_engines_listen_and_answer_as_listed(config):
    wanted, end = listed(config, ENGINES), time.monotonic() + 60
    # SeaweedFS opens its admin port last.
    while engines_listen() != wanted and time.monotonic() < end:
        time.sleep(0.5)
    assert engines_listen() == wanted
    check_answers(config, ENGINES)


def engines_listen() -> set[tuple[str, str, int]]:
    family = psutil.Process().children(recursive=True)
    return {
        place
        for process, program in ENGINES.items()
        for one in family
        if one.name() == program
        for place in listening(process, one)
    }


@pytest.mark.parametrize(
    ("service", "create"), [("scorer", create_scorer), ("inspector", create_inspector)]
)
async def test_routes_without_a_credential_are_those_that_are_listed(config, service, create):
    app = create(config)
    assert await open_routes(app, app.openapi()) == set(INVENTORY["open"][service])


async def test_the_page_changes_nothing_without_its_token(config):
    documented = create_api(config).openapi()
    routes = {f"{m.upper()} {path}" for path, of in documented["paths"].items() for m in of}
    shown = {route for route in routes if route.startswith("GET ")}
    assert shown == set(INVENTORY["open"]["walkthrough"])
    documented["paths"] = {
        path: {method: of[method] for method in of if method != "get"}
        for path, of in documented["paths"].items()
    }
    assert await open_routes(create_walkthrough(config), documented) == set()


async def open_routes(app, documented) -> set[str]:
    """Documented routes that answer neither 401 nor 403 to a request without a credential."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    found = set()
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path, of in documented["paths"].items():
            for method in of:
                url = re.sub(r"\{.*?\}", "x", path)
                answer = await client.request(method, url)
                if answer.status_code not in REFUSED:
                    found.add(f"{method.upper()} {path}")
    return found


def test_security_md_names_each_port(default_environment):
    text = (HERE.parent.parent / "SECURITY.md").read_text()
    named = set()
    for low, high in re.findall(r"(\d{5})(?: to (\d{5}))?", text):
        named |= set(range(int(low), int(high or low) + 1))
    defaults = Settings(_env_file=None)
    wanted = {port(defaults, name) for ports in INVENTORY["listens"].values() for name in ports}
    assert wanted <= named


def check_stack(settings: Settings) -> None:
    """Hold a running stack to the inventory."""
    processes = INVENTORY["listens"]
    found = set()
    for name, pid in Supervisor(settings).pids().items():
        found |= listening(name, psutil.Process(pid))
    assert found == listed(settings, processes)
    check_answers(settings, processes)
    for service, routes in INVENTORY["open"].items():
        url = f"http://{settings.host}:{port(settings, f'{service}_port')}"
        documented = httpx.get(f"{url}/openapi.json").json()["paths"]
        for path, of in documented.items():
            for method in of:
                if path == "/api/stream":
                    continue
                answer = httpx.request(method, url + re.sub(r"\{.*?\}", "x", path), timeout=60)
                is_open = answer.status_code not in REFUSED
                assert is_open == (f"{method.upper()} {path}" in routes), (service, method, path)
