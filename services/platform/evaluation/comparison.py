"""Comparing candidates fairly: intervals over seeds, and clocks that strike all of them alike."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import aiohttp
import numpy as np
from scipy import stats

from services.platform.progress import Step

_WARM_UP_SHARE = 0.1


@dataclass
class Compared:
    """One candidate, means over seeds; a design adds figures of its own.

    Attributes:
        ap: Average precision. cost: Minor units at its own threshold, over what the design says.
        recall: By what there is to find, where all candidates stop the same share.
        onnx_p50_ms, onnx_p99_ms: Its ONNX call for one row. size_mb: Of its file.
        intervals: 95 % Student intervals over seeds of what was judged.
    """

    name: str
    role: str
    ap: float = 0.0
    cost: float = 0.0
    recall: dict[str, float] = field(default_factory=dict)
    onnx_p50_ms: float = 0.0
    onnx_p99_ms: float = 0.0
    size_mb: float = 0.0
    train_s: float = 0.0
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def called(self, seconds: Sequence[float]) -> None:
        """Take what its ONNX calls took."""
        p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
        self.onnx_p50_ms, self.onnx_p99_ms = float(p50), float(p99)


@dataclass(frozen=True)
class Shown:
    """How a design's comparison is shown.

    Attributes:
        stopped: Share of everything that is stopped where recalls are compared.
        subject: What it is a share of. cost: Heading of the cost.
        extra, request: Field and heading of the design's own figure, and of its request's p95.
    """

    stopped: float
    subject: str
    cost: str
    extra: tuple[str, str]
    request: tuple[str, str]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % Student interval of a mean, NaN left out; a single value is its own."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    mean = float(known.mean())
    if len(known) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.975, len(known) - 1) * stats.sem(known))
    return mean - half, mean + half


def averaged(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Runs' figures as `Compared` has them; `recall_x` goes to `recall["x"]`."""
    by_name = {key: [run[key] for run in runs] for key in runs[0]}
    mean = {key: float(np.nanmean(values)) for key, values in by_name.items()}
    plain = {key: value for key, value in mean.items() if not key.startswith("recall_")}
    recall = {k.removeprefix("recall_"): v for k, v in mean.items() if k.startswith("recall_")}
    intervals = {key: interval(values) for key, values in by_name.items()}
    return {**plain, "recall": recall, "intervals": intervals}


@dataclass(frozen=True)
class Answer:
    """Of one post: seconds until it was read, and its headers."""

    seconds: float
    headers: Mapping[str, str]


async def post_in_turn(
    urls: Mapping[str, str], posts: Sequence[Mapping[str, Any]], rate: float, step: Step
) -> dict[str, list[Answer]]:
    """Post the same bodies to several services, in turn, so many bodies a second.

    Args:
        urls: By name, where to. posts: What each post is, as aiohttp's `post` takes it.

    Returns:
        By name, the answers; the first tenth is left out.

    Raises:
        aiohttp.ClientError: one did not answer with success.
    """
    answers: dict[str, list[Answer]] = {name: [] for name in urls}
    async with aiohttp.ClientSession() as http:
        begin = perf_counter()
        for number, post in enumerate(posts):
            await asyncio.sleep(max(begin + number / rate - perf_counter(), 0.0))
            for name, url in urls.items():
                sent = perf_counter()
                async with http.post(url, **post) as answer:
                    await answer.read()
                    answer.raise_for_status()
                answers[name].append(Answer(perf_counter() - sent, answer.headers))
            step(number + 1, len(posts))
    warm = round(len(posts) * _WARM_UP_SHARE)
    return {name: found[warm:] for name, found in answers.items()}


def p95_ms(answers: Sequence[Answer]) -> float:
    """95th percentile of their times."""
    return float(np.percentile([answer.seconds for answer in answers], 95) * 1e3)


def figures(result: Sequence[Compared], shown: Shown) -> dict[str, object]:
    """As JSON shows it."""
    return {"candidates": [asdict(one) for one in result], "stopped": shown.stopped}
