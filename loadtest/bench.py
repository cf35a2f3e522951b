"""`/score` beside the floor and beside the book: one server after the other, in turn, by wrk.

The machine is shared and noisy, so only ratios within one run count: every round measures all three
on the same settings, and each figure is the median over rounds.
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
from services.platform.progress import Step
from services.platform.settings import Settings

APPS = {
    "noop": "loadtest.apps:noop",
    "by_the_book": "loadtest.apps:by_the_book",
    "score": "services.fraud.serving.app:create_app",
}
CONNECTIONS = 8
_BODIES = 20_000
_WARM_UP_S = 2
_SETTLE_S = 3.0


def bench(config: Settings, seconds: int, rounds: int, step: Step) -> dict[str, Any]:
    """Requests/s and percentiles of the three, and what `/score` is of the other two.

    Raises:
        FileNotFoundError: there is no wrk here.
        RuntimeError: a server did not start, or failed requests.
    """
    found: dict[str, list[dict[str, float]]] = {name: [] for name in APPS}
    beside: dict[str, float] = defaultdict(float)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bodies.jsonl"
        file.write_bytes(b"\n".join(bodies(_BODIES)))
        done = 0
        # A home of its own: the outbox of the running scorer is not to be shared.
        ours = {**same_engines(config), "WHITEBOARD_HOME": folder}
        apps = {name: (app, ours if name == "score" else {}) for name, app in APPS.items()}
        with serving(apps) as urls:
            for _ in range(rounds):
                for name, url in urls.items():
                    wrk(f"{url}/score", file, _WARM_UP_S)
                    before = processor_seconds(config) if name == "score" else {}
                    found[name].append(wrk(f"{url}/score", file, seconds))
                    if name == "score":
                        # What may lag reads on for a moment.
                        time.sleep(_SETTLE_S)
                        for other, spent in processor_seconds(config).items():
                            beside[other] += spent - before.get(other, spent)
                    done += 1
                    step(done, rounds * len(APPS))
            degraded = _degraded(urls["score"])
    median = {
        name: {key: float(np.median([one[key] for one in runs])) for key in runs[0]}
        for name, runs in found.items()
    }
    score = median["score"]["rps"]
    decided = sum(one["rps"] * seconds for one in found["score"])
    return {
        **median,
        "score_over_noop": score / median["noop"]["rps"],
        "score_over_by_the_book": score / median["by_the_book"]["rps"],
        "degraded": degraded,
        "beside_us_a_decision": {n: s / decided * 1e6 for n, s in sorted(beside.items())},
        "rounds": rounds,
        "connections": CONNECTIONS,
    }


def processor_seconds(config: Settings) -> dict[str, float]:
    """Processor time that each process of the running stack has taken so far."""
    spent = {}
    for name, pid in Supervisor(config).pids().items():
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            spent[name] = times.user + times.system
    return spent


def _degraded(url: str) -> int:
    """How many of its decisions were taken without the features: those prove nothing."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [x for x in lines if x.startswith("decisions_total{") and 'degraded="true"' in x]
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


def wrk(url: str, file: Path, seconds: int) -> dict[str, float]:
    """Post a file's bodies as fast as they are answered; requests/s and percentiles.

    Raises:
        FileNotFoundError: there is no wrk here. RuntimeError: requests failed.
    """
    program = shutil.which("wrk")
    if program is None:
        raise FileNotFoundError("no wrk here: `apt-get install wrk` (Debian) or its like")
    script = str(Path(__file__).parent / "bench.lua")
    command = [program, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, url]
    environ = {**environment(), "BENCH_BODIES": str(file)}
    said = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    told = json.loads(said.strip().splitlines()[-1])
    if told["errors"]:
        raise RuntimeError(f"{told['errors']} requests to {url} failed")
    rps = told["requests"] / told["seconds"]
    return {"rps": rps, **{f"p{q}_ms": told[f"p{q}_ms"] for q in (50, 95, 99)}}
