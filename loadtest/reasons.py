"""What reasons cost in a request: `/score` and `/score?reasons=true`, the same bodies in turn."""

import asyncio
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loadtest.bodies import bodies, load_headers
from services.fraud.service import SCORER
from services.platform.evaluation.comparison import Answer, post_in_turn
from services.platform.progress import ProgressCallback
from services.platform.settings import Settings

RATE = 25.0


@dataclass(frozen=True)
class Latency:
    """Times of answers at the client, ms."""

    p50_ms: float
    p95_ms: float
    p99_ms: float

    @classmethod
    def of(cls, answers: list[Answer]) -> "Latency":
        """Percentiles of answers' times."""
        return cls(*np.percentile([a.seconds * 1e3 for a in answers], [50, 95, 99]).tolist())


@dataclass(frozen=True)
class ReasonsCost:
    """`/score` without and with reasons, `requests` of each."""

    requests: int
    without: Latency
    with_reasons: Latency

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)


def bench(config: Settings, requests: int, step: ProgressCallback) -> ReasonsCost:
    """Post the same bodies to both in turn.

    Args:
        config: Where the stack runs.
        requests: Of each.
        step: Called with (requests done, all).

    Raises:
        OSError: the scorer does not answer.
    """
    url = f"{SCORER.url(config)}/score"
    headers = load_headers()
    posts = [{"data": body, "headers": headers} for body in bodies(requests)]
    urls = {"without": url, "with": f"{url}?reasons=true"}
    found = asyncio.run(post_in_turn(urls, posts, RATE, step))
    without, with_reasons = Latency.of(found["without"]), Latency.of(found["with"])
    return ReasonsCost(len(found["without"]), without, with_reasons)
