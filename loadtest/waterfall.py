"""The latency waterfall: the duration of each stage of a request, for each candidate.

One scorer per registered candidate runs beside the stack and publishes its decisions. Requests go
to them in turn, and the `Server-Timing` header of each answer has the duration of each stage.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from infra.local.apps import serving_files
from loadtest.bodies import bodies, load_headers
from services.fraud.candidates import CANDIDATES
from services.platform.evaluation.comparison import post_in_turn
from services.platform.models.names import version_path
from services.platform.models.registry import ModelRegistry
from services.platform.progress import ProgressCallback
from services.platform.runtime.scrape import quantile, read_buckets
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.telemetry import PUBLISH_STAGE

STAGES = ("validate", "fetch", "read", "infer", "rules", "encode")
RATE = 50.0


@dataclass(frozen=True)
class CandidateWaterfall:
    """The durations of one candidate.

    Attributes:
        name: Name of the candidate.
        stages: (p50, p95) ms by stage.
        client: (p50, p95) ms, measured by the client.
        publish: (p50, p95) ms from queueing a decision to the stream's acknowledgement, which is
            not on the request path.
    """

    name: str
    stages: dict[str, tuple[float, float]]
    client: tuple[float, float]
    publish: tuple[float, float]


def bench(config: Settings, requests: int, step: ProgressCallback) -> list[CandidateWaterfall]:
    """Send the same requests to every registered candidate.

    Args:
        config: Where the stack runs.
        requests: Requests per candidate.
        step: Called with (requests done, all).

    Raises:
        ValueError: no candidate is registered.
        RuntimeError: a scorer does not start.
    """
    lake, registry = Lake(config), ModelRegistry(config)
    versions = {name: registry.newest_version("fraud", name) for name in sorted(CANDIDATES.all())}
    files = {n: lake.get(version_path("fraud", v)) for n, v in versions.items() if v is not None}
    if not files:
        raise ValueError("no candidate is registered: `whiteboard train fraud`")
    with serving_files("services.fraud.serving.app:create_app", config, files, heard=True) as urls:
        found = asyncio.run(_post(urls, list(bodies(requests)), step))
        published = {name: _published(url) for name, url in urls.items()}
    return [
        CandidateWaterfall(
            name=name,
            stages={s: _quantiles([one[s] for one in answers]) for s in STAGES},
            client=_quantiles([one["client"] for one in answers]),
            publish=published[name],
        )
        for name, answers in found.items()
    ]


async def _post(
    urls: dict[str, str], requests: list[bytes], step: ProgressCallback
) -> dict[str, list[dict[str, float]]]:
    """By candidate, the ms by stage of each answer."""
    headers = load_headers()
    posts = [{"data": body, "headers": headers} for body in requests]
    routes = {name: f"{url}/score" for name, url in urls.items()}
    found = await post_in_turn(routes, posts, RATE, step)
    # Wait until the last decisions are published.
    await asyncio.sleep(0.5)
    return {
        name: [_stages(a.headers["Server-Timing"]) | {"client": a.seconds * 1e3} for a in answers]
        for name, answers in found.items()
    }


def _stages(header: str) -> dict[str, float]:
    parts = (part.split(";dur=") for part in header.split(", "))
    return {name: float(ms) for name, ms in parts}


def _published(url: str) -> tuple[float, float]:
    found = read_buckets(f"{url}/metrics", "stage_duration_seconds", {"stage": PUBLISH_STAGE})
    return quantile({}, found, 0.5) * 1e3, quantile({}, found, 0.95) * 1e3


def _quantiles(values: list[float]) -> tuple[float, float]:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return float(p50), float(p95)


def plot(found: list[CandidateWaterfall], path: Path) -> None:
    """Plot the medians of the stages, one bar per candidate."""
    figure = Figure(figsize=(8, 0.9 + 0.6 * len(found)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(found))
    names = [one.name for one in found]
    for stage in STAGES:
        width = np.array([one.stages[stage][0] for one in found])
        axes.barh(names, width, left=left, label=stage)
        left += width
    rest = np.array([one.client[0] for one in found]) - left
    axes.barh(names, np.maximum(rest, 0), left=left, label="HTTP and network", color="lightgrey")
    axes.set(xlabel="ms, medians")
    axes.invert_yaxis()
    axes.legend(ncols=6, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
