"""Several processes on one port: balance, draining without a failed request, metrics of all."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress

import aiohttp
import pytest

from infra.local.engines import environment, free_port
from services.platform.runtime.sharing.siblings import ask_ready, names, shared_folder

pytestmark = pytest.mark.slow

RUN = """import sys
from services.platform.runtime.server import serve_instance
from services.platform.settings import settings
app = "tests.integration.platform.shared_app:create_app"
serve_instance(settings(), "work", app, int(sys.argv[1]))"""
READY_S = 60.0


class Service:
    """Processes of one service in a folder of their own."""

    def __init__(self, home):
        self.home, self.port = home, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = shared_folder(home, "work")
        self.running = {}

    def start(self, *instances):
        for instance in instances:
            env = {
                **environment(),
                "WHITEBOARD_HOME": str(self.home),
                "WHITEBOARD_HOST": "127.0.0.1",
                "WHITEBOARD_INSTANCE": instance,
            }
            command = [sys.executable, "-c", RUN, str(self.port)]
            with (self.home / f"{instance}.log").open("ab") as log:
                self.running[instance] = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        end = time.monotonic() + READY_S
        for instance in instances:
            while not (ask_ready(self.folder, instance) or {}).get("accepts"):
                assert time.monotonic() < end, (self.home / f"{instance}.log").read_text()
                time.sleep(0.02)

    def pids(self):
        return {str(process.pid) for process in self.running.values()}

    def signal(self, instance, number):
        process = self.running.pop(instance)
        process.send_signal(number)
        return process

    def stop(self):
        for process in self.running.values():
            with suppress(ProcessLookupError):
                process.kill()
            process.wait(10)


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    made.stop()


async def metric(session, url, name):
    async with session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def test_connections_are_shared_evenly_and_a_hung_process_gets_none(service):
    service.start("work", "work-1")
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one():
            async with session.post(f"{service.url}/work", json={"seconds": 0.3}) as answer:
                return await answer.text()

        found = Counter(await asyncio.gather(*(one() for _ in range(64))))
    assert set(found) == service.pids()
    assert min(found.values()) >= 24
    service.running["work-1"].send_signal(signal.SIGSTOP)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        for _ in range(5):
            async with session.post(f"{service.url}/work", json={}) as answer:
                assert await answer.text() == str(service.running["work"].pid)
    # `stop` kills it; one that was stopped takes no other signal.


class Load:
    """Requests without end, by connections that are kept and by one a request."""

    def __init__(self, url):
        self.url, self.answers, self.failures = url, Counter(), []

    async def __aenter__(self):
        self._kept = aiohttp.ClientSession()
        self._tasks = [asyncio.create_task(self._forever(kept)) for kept in (True, False) * 4]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._kept.close()

    async def _forever(self, kept):
        while True:
            if kept:
                await self._one(self._kept)
            else:
                async with aiohttp.ClientSession() as session:
                    await self._one(session)
            await asyncio.sleep(0.002)

    async def _one(self, session):
        try:
            async with session.post(f"{self.url}/work", json={"seconds": 0.003}) as answer:
                assert answer.status == 200
                self.answers[await answer.text()] += 1
        except (aiohttp.ClientError, OSError, AssertionError) as error:
            self.failures.append(repr(error))


async def drained(service, instance):
    process = service.signal(instance, signal.SIGUSR1)
    return await asyncio.to_thread(process.wait, 30)


async def test_a_process_is_replaced_under_load_without_a_failed_request(service):
    service.start("work")
    async with Load(service.url) as load:
        await asyncio.sleep(0.3)
        await asyncio.to_thread(service.start, "work-1")
        assert await drained(service, "work") == 0
        assert names(service.folder) == ["work-1"]
        await asyncio.sleep(0.3)
    assert load.failures == []
    assert len(load.answers) == 2
    async with aiohttp.ClientSession() as session:
        counted = await metric(session, service.url, "requests_total")
        timed = await metric(session, service.url, "request_duration_seconds_count")
    # A request that was on its way when the load ended may be counted or not.
    assert 0 <= counted - load.answers.total() <= 8
    assert 0 <= timed - load.answers.total() <= 8


async def test_the_metrics_of_all_never_fall_when_one_is_killed(service):
    service.start("work", "work-1")
    seen = []
    async with aiohttp.ClientSession() as watch, Load(service.url) as load:
        for step in range(30):
            if step == 10:
                killed = service.signal("work-1", signal.SIGKILL)
                await asyncio.to_thread(killed.wait, 10)
            if step == 15:
                await asyncio.to_thread(service.start, "work-1")
            with suppress(aiohttp.ClientError):  # the killed one's own connection
                seen.append(await metric(watch, service.url, "requests_total"))
            await asyncio.sleep(0.15)
    assert seen == sorted(seen)
    # A second's requests of one process at most are not counted.
    assert load.answers.total() - seen[-1] < 0.5 * load.answers.total()
    assert len(load.failures) <= 8  # those that the killed one had
    assert len(load.answers) == 3


def test_a_port_that_is_a_strangers_is_named(tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", RUN, str(port)]
        env = {**environment(), "WHITEBOARD_HOME": str(tmp_path), "WHITEBOARD_INSTANCE": "work"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"127.0.0.1:{port}: Address already in use" in done.stderr
