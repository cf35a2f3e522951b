"""The latency waterfall: where a request's time goes, candidate by candidate, off real answers.

A scorer for each registered candidate runs beside the stack, decisions published and all; they are
asked in turn, and every answer's `Server-Timing` says what its stages took.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from infra.local.apps import serving_files
from loadtest.bodies import bodies
from services.fraud.candidates import CANDIDATES
from services.platform.evaluation.comparison import post_in_turn
from services.platform.models.registry import Registry
from services.platform.models.served_model import version_path
from services.platform.progress import Step
from services.platform.runtime.http import SYNTHETIC
from services.platform.runtime.scrape import buckets, quantile
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

STAGES = ("validate", "fetch", "read", "infer", "encode")
RATE = 50.0


@dataclass(frozen=True)
class Waterfall:
    """One candidate. stages: (p50, p95) ms by stage; client likewise, as the asker saw it.

    publish: (p50, p95) ms from queueing a decision to the stream's acknowledgement, off the path.
    """

    name: str
    stages: dict[str, tuple[float, float]]
    client: tuple[float, float]
    publish: tuple[float, float]


def bench(config: Settings, requests: int, step: Step) -> list[Waterfall]:
    """Ask every registered candidate the same.

    Raises:
        ValueError: none is registered. RuntimeError: a scorer does not start.
    """
    lake, registry = Lake(config), Registry(config)
    versions = {name: registry.newest("fraud", name) for name in sorted(CANDIDATES.all())}
    files = {n: lake.get(version_path("fraud", v)) for n, v in versions.items() if v is not None}
    if not files:
        raise ValueError("no candidate is registered: `whiteboard train fraud`")
    with serving_files("services.fraud.serving.app:create_app", config, files, heard=True) as urls:
        found = asyncio.run(_ask(urls, list(bodies(requests)), step))
        published = {name: _published(url) for name, url in urls.items()}
    return [
        Waterfall(
            name=name,
            stages={s: _quantiles([one[s] for one in answers]) for s in STAGES},
            client=_quantiles([one["client"] for one in answers]),
            publish=published[name],
        )
        for name, answers in found.items()
    ]


async def _ask(
    urls: dict[str, str], asked: list[bytes], step: Step
) -> dict[str, list[dict[str, float]]]:
    """By candidate, ms by stage of each answer."""
    headers = {"Content-Type": "application/json", **SYNTHETIC}
    posts = [{"data": body, "headers": headers} for body in asked]
    routes = {name: f"{url}/score" for name, url in urls.items()}
    found = await post_in_turn(routes, posts, RATE, step)
    # The last decisions are still on their way to the stream.
    await asyncio.sleep(0.5)
    return {
        name: [_stages(a.headers["Server-Timing"]) | {"client": a.seconds * 1e3} for a in answers]
        for name, answers in found.items()
    }


def _stages(header: str) -> dict[str, float]:
    parts = (part.split(";dur=") for part in header.split(", "))
    return {name: float(ms) for name, ms in parts}


def _published(url: str) -> tuple[float, float]:
    found = buckets(f"{url}/metrics", "stage_duration_seconds", {"stage": "publish"})
    return quantile({}, found, 0.5) * 1e3, quantile({}, found, 0.95) * 1e3


def _quantiles(values: list[float]) -> tuple[float, float]:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return float(p50), float(p95)


def plot(found: list[Waterfall], path: Path) -> None:
    """Medians of the stages, one bar a candidate."""
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
