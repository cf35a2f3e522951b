"""Throughput of `/score` against a no-op and a reference implementation, measured by wrk.

The machine is shared and noisy, so only ratios within one run count: every round measures the three
services in turn with the same settings, and each figure is the median over rounds.
"""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from infra.local.apps import same_engines, serving
from infra.local.engines import environment
from infra.local.supervisor import Supervisor
from loadtest.bodies import bodies
from services.platform.progress import ProgressCallback
from services.platform.settings import Settings, settings

APPS = {
    "noop": "loadtest.apps:noop",
    "by_the_book": "loadtest.apps:reference",
    "score": "services.fraud.serving.app:create_app",
}
CONNECTIONS = 8
_BODIES = 20_000
_WARM_UP_S = 2
_SETTLE_S = 3.0


def bench(config: Settings, seconds: int, rounds: int, step: ProgressCallback) -> dict[str, Any]:
    """Requests/s and percentiles of the three services, and the ratios of `/score` to the others.

    Args:
        config: Where the stack runs.
        seconds: Duration of one measurement.
        rounds: Measurements per service.
        step: Called with (measurements done, all).

    Raises:
        FileNotFoundError: wrk is not installed.
        RuntimeError: a server did not start, or requests failed.
    """
    runs_of: dict[str, list[dict[str, float]]] = {name: [] for name in APPS}
    cpu_s: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bodies.jsonl"
        file.write_bytes(b"\n".join(bodies(_BODIES)))
        done = 0
        # A separate home, so that the running scorer's outbox is not shared.
        environ = {**same_engines(config), "WHITEBOARD_HOME": folder}
        apps = {name: (app, environ if name == "score" else {}) for name, app in APPS.items()}
        with serving(apps) as urls:
            for _ in range(rounds):
                for name, url in urls.items():
                    wrk(f"{url}/score", file, _WARM_UP_S)
                    before = cpu_seconds(config) if name == "score" else {}
                    runs_of[name].append(wrk(f"{url}/score", file, seconds))
                    if name == "score":
                        # Consumers of the streams catch up for a moment.
                        time.sleep(_SETTLE_S)
                        for other, spent in cpu_seconds(config).items():
                            cpu_s[other] += spent - before.get(other, spent)
                    done += 1
                    step(done, rounds * len(APPS))
            degraded = _degraded(urls["score"])
    median = {
        name: {key: float(np.median([one[key] for one in runs])) for key in runs[0]}
        for name, runs in runs_of.items()
    }
    score = median["score"]["rps"]
    decisions = sum(one["rps"] * seconds for one in runs_of["score"])
    return {
        **median,
        "score_over_noop": score / median["noop"]["rps"],
        "score_over_by_the_book": score / median["by_the_book"]["rps"],
        "degraded": degraded,
        "beside_us_a_decision": {n: s / decisions * 1e6 for n, s in sorted(cpu_s.items())},
        "rounds": rounds,
        "connections": CONNECTIONS,
    }


def cpu_seconds(config: Settings) -> dict[str, float]:
    """CPU seconds that each process of the running stack has used so far."""
    spent = {}
    for name, pid in Supervisor(config).pids().items():
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            spent[name] = times.user + times.system
    return spent


def _degraded(url: str) -> int:
    """Number of decisions made without the features; a benchmark with any is invalid."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [x for x in lines if x.startswith("decisions_total{") and 'degraded="true"' in x]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


def wrk_program() -> str:
    """Path of wrk. FileNotFoundError if it is not installed."""
    program = shutil.which("wrk")
    if program is None:
        raise FileNotFoundError("wrk is not installed: `apt-get install wrk` (Debian)")
    return program


def wrk(url: str, file: Path, seconds: int) -> dict[str, float]:
    """Post a file's bodies in a closed loop of `CONNECTIONS`; requests/s and percentiles.

    Args:
        url: Where to post.
        file: Bodies, one per line.
        seconds: Duration.

    Raises:
        FileNotFoundError: wrk is not installed.
        RuntimeError: requests failed.
    """
    program = wrk_program()
    script = str(Path(__file__).parent / "bench.lua")
    command = [program, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, url]
    environ = {**environment(), "BENCH_BODIES": str(file)} | {
        "BENCH_TOKEN": settings().plain_label_token
    }
    process = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    summary = json.loads(process.stdout.strip().splitlines()[-1])
    if summary["errors"]:
        raise RuntimeError(f"{summary['errors']} requests to {url} failed")
    rps = summary["requests"] / summary["seconds"]
    return {"rps": rps, **{f"p{q}_ms": summary[f"p{q}_ms"] for q in (50, 95, 99)}}
