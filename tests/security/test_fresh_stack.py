"""Attacks on a stack as a fresh `up` leaves it; each must fail, and the stack go on.

With WHITEBOARD_E2E_RUNNING set they are done to the stack that runs with the present settings.
"""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from infra.local.apps import same_engines, serving
from infra.local.engines import environment
from infra.local.supervisor import Supervisor
from services.cv_inspection.service import INSPECTOR
from services.designs import DESIGNS
from services.fraud.service import SCORER
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.platform.design import WALKTHROUGH, HttpApp
from services.platform.models.names import ANNOUNCEMENTS, served_path
from services.platform.runtime.bounded_http import MAX_CONNECTIONS
from services.platform.runtime.tokens import client_headers
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.connection import connect, ensure_bucket
from tests.e2e.running import IS_WANTED, Running
from tests.e2e.test_demo import Installation
from tests.security.test_inventory import check_stack
from tests.security.test_models import hiding_places
from tests.security.test_secrets import answer
from tests.security.test_store import status

pytestmark = pytest.mark.e2e
# `up` trains both first champions; on a machine that does other things it takes long.
UP_S, COMES_BACK_S = 3600.0, 300.0
APPS = (SCORER, INSPECTOR, WALKTHROUGH)


@pytest.fixture(scope="module")
def stack(request, tmp_path_factory) -> Iterator[Settings]:
    """The settings of a stack; its training shows that it goes on."""
    if IS_WANTED:
        yield Running().settings()
        return
    made = Installation(tmp_path_factory.mktemp("fresh"))
    capture = request.config.pluginmanager.getplugin("capturemanager")
    try:
        with capture.global_and_fixture_disabled():
            bring_up(made)
        yield made.settings()
    finally:
        made.run("down")


def bring_up(made: Installation) -> None:
    """`whiteboard up`, with a line every half minute."""
    command, log = [sys.executable, "-m", "services.cli.main", "up"], made.home / "up.log"
    begin = time.monotonic()
    with log.open("wb") as out:
        running = subprocess.Popen(command, env=made.env, stdout=out, stderr=out)
        while running.poll() is None:
            assert time.monotonic() - begin < UP_S, log.read_text()[-3_000:]
            with suppress(subprocess.TimeoutExpired):
                running.wait(30)
            print(f"\n  whiteboard up: {time.monotonic() - begin:.0f} s", end="", flush=True)
    assert running.returncode == 0, log.read_text()[-3_000:]


def until(holds: Callable[[], object], seconds: float = COMES_BACK_S) -> None:
    end = time.monotonic() + seconds
    while True:
        with suppress(httpx.HTTPError, OSError):
            if holds():
                return
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.5)


def ready(stack: Settings, app: HttpApp) -> dict:
    return dict(httpx.get(f"{app.url(stack)}/readyz", timeout=60).json())


def test_it_listens_and_answers_as_listed(stack):
    check_stack(stack)


def test_the_home_is_its_owners_alone(stack):
    """Row 10: no other user enters it, and no file of the secrets or the configuration is open."""
    for folder in (stack.home, stack.home / "secrets", stack.home / "conf"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (stack.home / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_password_is_on_a_command_line_and_none_is_shared(stack):
    """Row 2: every user of the machine reads the processes' arguments."""
    secrets = {p.name: p.read_text().strip() for p in (stack.home / "secrets").iterdir()}
    known = {name: value for name, value in secrets.items() if "public" not in name}
    assert len(set(known.values())) == len(known)
    for name, pid in Supervisor(stack).pids().items():
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for line in (" ".join(process.cmdline()) for process in family):
            assert not [secret for secret, value in known.items() if value in line], (name, line)


def test_services_work_where_no_file_is(stack):
    """Row 3: a relative path of a model or a message leads nowhere."""
    services = {process.name for design in DESIGNS for process in design.everything}
    folders = {n: psutil.Process(p).cwd() for n, p in Supervisor(stack).pids().items()}
    assert {os.path.realpath(folders[name]) for name in services} == {
        os.path.realpath(stack.home / "empty")
    }
    assert not list((stack.home / "empty").iterdir())


@pytest.mark.parametrize("default", ["whiteboard-local", "operator", ""])
def test_redis_takes_no_default_and_no_command_out_of_a_post(stack, default, tmp_path):
    """Row 2."""
    said = answer(stack.host, stack.redis_port, f"AUTH {default}\r\nGET x\r\n".encode())
    assert b"NOAUTH" in said
    commands = f"AUTH operator {stack.plain_password}\r\nCONFIG SET dir {tmp_path}\r\nSAVE\r\n"
    post = f"POST / HTTP/1.1\r\nContent-Length: {len(commands)}\r\n\r\n{commands}"
    assert answer(stack.host, stack.redis_port, post.encode()).count(b"-NOPERM") == 2


def test_the_inner_ports_of_the_store_replace_no_champion(stack):
    """Row 1."""
    for design in DESIGNS:
        path = served_path(design.name)
        before = Lake(stack).get(path)
        first, host = stack.s3_internal_port, stack.host
        for url, method in (
            (f"http://{host}:{first + 1}/buckets/{stack.bucket}/{path}", "PUT"),
            (f"http://{host}:{first + 1}/buckets/{stack.bucket}/{path}", "DELETE"),
            (f"http://{host}:{first}/col/delete?collection={stack.bucket}", "GET"),
            (f"http://{host}:{first}/dir/assign", "GET"),
            (f"{stack.s3}/{stack.bucket}/{path}", "PUT"),
        ):
            data = b"approve everything" if method == "PUT" else None
            assert status(url, method, data) in (401, 403, 404, 405), url
        assert Lake(stack).get(path) == before


def kill(stack: Settings, names: set[str]) -> None:
    """End processes at once; the process manager starts them again."""
    pids = Supervisor(stack).pids()
    for name in names:
        psutil.Process(pids[name]).kill()
    until(
        lambda: all(Supervisor(stack).pids().get(name, pids[name]) != pids[name] for name in names)
    )


async def test_who_writes_bucket_and_note_changes_no_decision_even_after_a_restart(stack):
    """Rows 3, 4 and 6: a model that promotion did not sign, a note that is none, and a kill."""
    apps = SCORER, INSPECTOR
    names = {app.name for app in apps}
    before = [ready(stack, app)["model"] for app in apps]
    lake, nc = Lake(stack), await connect(stack, "attack")
    good = {design.name: lake.get(served_path(design.name)) for design in DESIGNS}
    notes = await ensure_bucket(nc.jetstream(), ANNOUNCEMENTS)
    kept = {d.name: (await notes.get(f"{d.name}.champion")).value or b"" for d in DESIGNS}
    alive = Supervisor(stack).pids()
    try:
        for design in DESIGNS:
            lake.put(served_path(design.name), hiding_places("../conf/nats.conf")["initializer"])
            for note in (b"[]", b"\xff", kept[design.name]):
                await notes.put(f"{design.name}.champion", note)
        kill(stack, names)
        until(lambda: all(ready(stack, app)["model_refused"] for app in apps))
        assert [ready(stack, app)["model"] for app in apps] == before
        others = {n: p for n, p in Supervisor(stack).pids().items() if n not in names}
        assert others == {n: p for n, p in alive.items() if n not in names}
    finally:
        for design in DESIGNS:
            lake.put(served_path(design.name), good[design.name])
            await notes.put(f"{design.name}.champion", kept[design.name])
        await nc.close()
        kill(stack, names)
    until(lambda: [ready(stack, app)["model"] for app in apps] == before)
    assert not any(ready(stack, app)["model_refused"] for app in apps)


_FOREIGN = [
    {"host": "evil.example"}, {"host": "evil.example:18080"}, {"host": "127.0.0.1.evil.example"},
    {"host": "localhost."}, {"host": "localhost.evil.example"}, {"host": "2130706433"},
    {"host": "0x7f.1"}, {"host": "127.1"}, {"host": "[::1"}, {"host": "xn--localhost"},
    {"host": "evil.example@127.0.0.1"}, {"host": "127.0.0.1\\evil.example"},
]  # fmt: skip


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_no_page_of_a_browser_reads_or_changes_anything(stack, app):
    """Rows 7 and 8: by its own name that resolves to us, and by requests across sites."""
    hot = app.route
    with httpx.Client(base_url=app.url(stack), timeout=60) as client:
        for headers in _FOREIGN:
            for method, path in (("GET", "/healthz"), ("POST", hot), ("GET", "/metrics"),
                                 ("POST", "/admin/night"), ("GET", "/openapi.json")):  # fmt: skip
                found = client.request(method, path, headers=headers, content=b"{}")
                assert found.status_code in (400, 421), (headers, path)
        for origin in ("null", "http://evil.example", "http://127.0.0.1:1", "file://", ""):
            site = {"sec-fetch-site": "cross-site"} if not origin else {"origin": origin}
            found = client.post(hot, headers=site, content=b"{}")
            assert found.status_code == 403, site


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_floods_stall_nobody(stack, app):
    """Row 9: headers without end, and connections that ask nothing, beside ordinary requests."""
    where = stack.host, app.port(stack)
    idle = [socket.create_connection(where, 60) for _ in range(min(400, MAX_CONNECTIONS // 2))]
    try:
        flood = socket.create_connection(where, 60)
        flood.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ")
        sent = 0
        with suppress(OSError):
            while sent < 64 << 20:
                sent += flood.send(b"x" * 65_536)
        assert sent < 64 << 20
        assert httpx.get(f"{app.url(stack)}/healthz", timeout=60).status_code == 200
    finally:
        for each in (*idle, flood):
            each.close()


def test_where_tokens_are_asked_for_our_clients_send_them_and_others_are_refused(stack, tmp_path):
    """Row 7."""
    asked = {**same_engines(stack), "WHITEBOARD_REQUIRE_TOKENS": "yes"}
    apps = {app.name: (app.factory, {**asked, "WHITEBOARD_HOME": str(tmp_path / app.name)})
            for app in (SCORER, INSPECTOR)}  # fmt: skip
    with serving(apps) as urls:
        until(lambda: all(httpx.get(f"{url}/readyz").is_success for url in urls.values()))
        url = f"{urls[SCORER.name]}{SCORER.route}"
        assert httpx.post(url, json=EXAMPLE_TRANSACTION, timeout=60).status_code == 401
        token = client_headers(stack)
        found = httpx.post(url, json=EXAMPLE_TRANSACTION, headers=token, timeout=60)
        assert found.json()["decision"]
        env = environment() | {"WHITEBOARD_HOME": str(stack.home)}
        env |= {f"WHITEBOARD_{name.upper()}_URL": url for name, url in urls.items()}
        ports = {n: value for n, value in stack.model_dump().items() if n.endswith("_port")}
        env |= {f"WHITEBOARD_{name.upper()}": str(value) for name, value in ports.items()}
        for command in (
            ("simulate", "fraud", "--rate", "20", "--seconds", "5"),
            ("simulate", "cv", "--rate", "1", "--post-rate", "2", "--seconds", "5"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "services.cli.main", *command, "--json"],
                env=env, capture_output=True, text=True, timeout=1_200,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3_000:]
            figures = json.loads(done.stdout)
            assert figures["failures"] == 0, figures
    assert Path(tmp_path / SCORER.name).exists()
