"""Fair comparison of candidates: the same data a seed, intervals over seeds, interleaved timing."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Generic, TypeVar

import aiohttp
import numpy as np
import numpy.typing as npt
from scipy import stats

from services.platform.models.candidates import CandidateRegistry
from services.platform.models.onnx import ScoringModel
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.types import Floats32

# Starts a service ("module:factory") for each ONNX file; gives their base URLs by name.
ServeFiles = Callable[[str, Mapping[str, bytes]], AbstractContextManager[Mapping[str, str]]]

_WARM_UP_SHARE = 0.1

S = TypeVar("S")
# A model's vectors (N, ...) and sets, each (N, M, K).
Inputs = tuple[npt.NDArray[Any], Mapping[str, Floats32]]


@dataclass
class CandidateResult:
    """Results of one candidate, means over seeds; a design adds figures of its own.

    Attributes:
        name: Name of the candidate.
        role: Why one would choose it.
        ap: Average precision.
        cost: Minor units at its own threshold, over the period that the design names.
        recall: By kind of positive, where all candidates stop the same share.
        onnx_p50_ms: Median time of its ONNX call for one row.
        onnx_p99_ms: 99th percentile of it.
        size_mb: Size of its file.
        train_s: Training time.
        intervals: 95 % Student intervals over seeds, by metric.
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


@dataclass(frozen=True)
class ComparisonLabels:
    """Labels of a design's comparison table.

    Attributes:
        stopped_share: Share of all cases that is stopped where recalls are compared.
        subject: What it is a share of.
        cost: Heading of the cost.
        extra: Field and heading of the design's own figure.
        request: Field and heading of the p95 of its request.
    """

    stopped_share: float
    subject: str
    cost: str
    extra: tuple[str, str]
    request: tuple[str, str]


@dataclass(frozen=True)
class ComparedCandidate:
    """A candidate that was trained on the data of one seed.

    Attributes:
        metrics: By name: see `average_runs`.
        file: Its ONNX file, with a card.
        notes: Fields of its result that are no means over seeds.
    """

    metrics: Mapping[str, float]
    file: bytes
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonSpec(Generic[S]):
    """What a design brings to the comparison of its candidates.

    Attributes:
        result: Makes a result of the fields of `CandidateResult` and the design's own.
        labels: Of the table.
        data: The data of a seed, the same for all candidates.
        train: Trains and evaluates a candidate, by name, on the data of a seed.
        read_model: Makes a model of a file.
        inputs: The vectors and sets of each timed call.
        app: "module:factory" of the service.
        route: The route that is timed.
        posts: Arguments of aiohttp's `post`, for each request.
        rate: Requests a second to each service.
    """

    result: Callable[..., CandidateResult]
    labels: ComparisonLabels
    data: Callable[[int], S]
    train: Callable[[str, int, S], ComparedCandidate]
    read_model: Callable[[bytes], ScoringModel]
    inputs: Callable[[S], Iterable[Inputs]]
    app: str
    route: str
    posts: Sequence[Mapping[str, Any]]
    rate: float


def compare_candidates(
    spec: ComparisonSpec[S],
    candidates: CandidateRegistry,
    seeds: Sequence[int],
    bar: ProgressBar,
    serve: ServeFiles,
) -> list[CandidateResult]:
    """Train and evaluate every candidate on the data of each seed, and time those of the last."""
    names = sorted(candidates.all())
    runs: dict[str, list[ComparedCandidate]] = {name: [] for name in names}
    for seed in seeds:
        data = spec.data(seed)
        for name in names:
            runs[name].append(spec.train(name, seed, data))
    files = {name: runs[name][-1].file for name in names}
    models = {name: spec.read_model(file) for name, file in files.items()}
    seconds = time_calls(models, spec.inputs(data))
    with serve(spec.app, files) as urls, bar("posting to each service in turn") as step:
        routes = {name: f"{url}{spec.route}" for name, url in urls.items()}
        answers = asyncio.run(post_in_turn(routes, spec.posts, spec.rate, step))
    p95_field, _ = spec.labels.request
    return [
        spec.result(
            **{
                "name": name,
                "role": candidates.get(name).role,
                "size_mb": len(files[name]) / 1e6,
                "onnx_p50_ms": float(np.percentile(seconds[name], 50) * 1e3),
                "onnx_p99_ms": float(np.percentile(seconds[name], 99) * 1e3),
                p95_field: p95_ms(answers[name]),
                **runs[name][-1].notes,
                **average_runs([run.metrics for run in runs[name]]),
            }
        )
        for name in names
    ]


def time_calls(
    models: Mapping[str, ScoringModel], inputs: Iterable[Inputs]
) -> dict[str, list[float]]:
    """Seconds of each call, by name; the models take turns, so that other load affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for vectors, sets in inputs:
        for name, model in models.items():
            begin = perf_counter()
            model.score(vectors, sets)
            seconds[name].append(perf_counter() - begin)
    return seconds


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % Student interval of a mean, ignoring NaN; of a single value, that value twice.

    >>> [round(bound, 3) for bound in interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    mean = float(known.mean())
    if len(known) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.975, len(known) - 1) * stats.sem(known))
    return mean - half, mean + half


def average_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean metrics of runs, as fields of `CandidateResult`; `recall_x` becomes `recall["x"]`."""
    by_name = {key: [run[key] for run in runs] for key in runs[0]}
    mean = {key: float(np.nanmean(values)) for key, values in by_name.items()}
    plain = {key: value for key, value in mean.items() if not key.startswith("recall_")}
    recall = {k.removeprefix("recall_"): v for k, v in mean.items() if k.startswith("recall_")}
    intervals = {key: interval(values) for key, values in by_name.items()}
    return {**plain, "recall": recall, "intervals": intervals}


@dataclass(frozen=True)
class Answer:
    """The answer to one post.

    Attributes:
        seconds: Time until its body was read.
        headers: Its headers.
    """

    seconds: float
    headers: Mapping[str, str]


async def post_in_turn(
    urls: Mapping[str, str], posts: Sequence[Mapping[str, Any]], rate: float, step: ProgressCallback
) -> dict[str, list[Answer]]:
    """Post each body to every service in turn, so that a disturbance affects all services alike.

    Args:
        urls: URL by name of the service.
        posts: Arguments of aiohttp's `post`, for each body.
        rate: Bodies a second.
        step: Called with (done, total) bodies.

    Returns:
        The answers by name, without the first tenth.

    Raises:
        aiohttp.ClientError: a service answered with an error status, or not at all.
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
    warm_up = round(len(posts) * _WARM_UP_SHARE)
    return {name: of_service[warm_up:] for name, of_service in answers.items()}


def p95_ms(answers: Sequence[Answer]) -> float:
    """95th percentile of the answers' times, ms.

    >>> round(p95_ms([Answer(0.010, {}), Answer(0.020, {})]), 1)
    19.5
    """
    return float(np.percentile([answer.seconds for answer in answers], 95) * 1e3)


def comparison_json(
    results: Sequence[CandidateResult], labels: ComparisonLabels
) -> dict[str, object]:
    """The comparison as `--json` prints it."""
    return {"candidates": [asdict(one) for one in results], "stopped": labels.stopped_share}
