"""`/score` beside the floor and beside the book: one server after the other, in turn, by wrk.

The machine is shared and noisy, so only ratios within one run count: every round measures all three
on the same settings, and each figure is the median over rounds.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from infra.local.engines import environment, free_port
from loadtest.bodies import bodies
from services.skeleton.progress import Step
from services.skeleton.settings import Settings

APPS = {
    "noop": "loadtest.apps:noop",
    "by_the_book": "loadtest.apps:by_the_book",
    "score": "services.fraud.serving:create_app",
}
CONNECTIONS = 8
_BODIES = 20_000
_READY_S = 90.0
_WARM_UP_S = 2


def bench(config: Settings, seconds: int, rounds: int, step: Step) -> dict[str, Any]:
    """Requests/s and percentiles of the three, and what `/score` is of the other two.

    Raises:
        FileNotFoundError: there is no wrk here.
        RuntimeError: a server did not start, or failed requests.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise FileNotFoundError("no wrk here: `apt-get install wrk` (Debian) or its like")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in APPS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bodies.jsonl"
        file.write_bytes(b"\n".join(bodies(_BODIES)))
        done = 0
        with _servers(config) as urls:
            for _ in range(rounds):
                for name, url in urls.items():
                    _wrk(wrk, url, file, _WARM_UP_S)
                    found[name].append(_wrk(wrk, url, file, seconds))
                    done += 1
                    step(done, rounds * len(APPS))
            degraded = _degraded(urls["score"])
    median = {
        name: {key: float(np.median([one[key] for one in runs])) for key in runs[0]}
        for name, runs in found.items()
    }
    score = median["score"]["rps"]
    return {
        **median,
        "score_over_noop": score / median["noop"]["rps"],
        "score_over_by_the_book": score / median["by_the_book"]["rps"],
        "degraded": degraded,
        "rounds": rounds,
        "connections": CONNECTIONS,
    }


@contextmanager
def _servers(config: Settings) -> Iterator[dict[str, str]]:
    """All three run, each idle while another is asked; the same server, one process each."""
    running = []
    urls = {}
    with tempfile.TemporaryDirectory() as home:
        try:
            for name, app in APPS.items():
                port = free_port()
                environ = {**environment(), "OMP_NUM_THREADS": "1"}
                if name == "score":
                    # A home of its own: the outbox of the running scorer is not to be shared.
                    environ |= _same_engines(config) | {"WHITEBOARD_HOME": home}
                command = [
                    sys.executable, "-m", "uvicorn", app, "--factory", "--port", str(port),
                    "--loop", "uvloop", "--http", "httptools", "--no-access-log",
                    "--log-level", "warning",
                ]  # fmt: skip
                running.append(subprocess.Popen(command, env=environ))
                urls[name] = f"http://127.0.0.1:{port}/score"
            for name, url in urls.items():
                _wait(name, url)
            yield urls
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(20)


def _same_engines(config: Settings) -> dict[str, str]:
    return {
        "WHITEBOARD_NATS_URL": config.nats,
        "WHITEBOARD_REDIS_URL": config.redis,
        "WHITEBOARD_S3_ENDPOINT": config.s3,
    }


def _degraded(url: str) -> int:
    """How many of its decisions were taken without the features: those prove nothing."""
    with urllib.request.urlopen(url.replace("/score", "/metrics"), timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [x for x in lines if x.startswith("decisions_total{") and 'degraded="true"' in x]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


def _wait(name: str, url: str) -> None:
    end = time.monotonic() + _READY_S
    body = next(bodies(1))
    while time.monotonic() < end:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{name} did not start: is the stack up? `whiteboard up`")


def _wrk(wrk: str, url: str, file: Path, seconds: int) -> dict[str, float]:
    script = str(Path(__file__).parent / "bench.lua")
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, url]
    environ = {**environment(), "BENCH_BODIES": str(file)}
    said = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    told = json.loads(said.strip().splitlines()[-1])
    if told["errors"]:
        raise RuntimeError(f"{told['errors']} requests to {url} failed")
    rps = told["requests"] / told["seconds"]
    return {"rps": rps, **{f"p{q}_ms": told[f"p{q}_ms"] for q in (50, 95, 99)}}
