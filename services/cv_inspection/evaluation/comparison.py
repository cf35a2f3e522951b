"""Compare the candidates: recall of each defect, cost, latency and training time.

Every candidate is trained on the same images for several seeds, its threshold is chosen on the same
validation images, and it is evaluated on 2,000 others. Recalls are compared where all candidates
stop the same share of images: at its own threshold, the one that stops more would have more recall.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from sklearn.metrics import average_precision_score

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.vision import ImageCandidate
from services.cv_inspection.features.labelled_images import ImageSplit, LabelledImages, mask_iou
from services.cv_inspection.problem import CLASSES, GOOD, CostModel
from services.cv_inspection.retraining.training import (
    all_cores,
    hyperparameters,
    model_card,
    new_candidate,
)
from services.cv_inspection.serving.model import read_model
from services.cv_inspection.simulator.camera import Camera
from services.cv_inspection.simulator.labelled_images import simulated_held_out, simulated_split
from services.platform.evaluation.comparison import (
    CandidateResult,
    ComparisonLabels,
    ServeFiles,
    average_runs,
    p95_ms,
    post_in_turn,
)
from services.platform.models.onnx import write_card
from services.platform.progress import ProgressBar
from services.platform.settings import Settings

STOPPED_SHARE = 0.10
CALLS = 300
REQUESTS, REQUESTS_PER_SECOND = 300, 10.0
_POSTED_FROM = 700_000
_APP = "services.cv_inspection.serving.app:create_app"
COMPARISON_LABELS = ComparisonLabels(
    stopped_share=STOPPED_SHARE,
    subject="images",
    cost="cost of 1,000",
    extra=("iou", "IoU"),
    request=("inspect_p95_ms", "/inspect p95, ms"),
)


@dataclass
class ImageCandidateResult(CandidateResult):
    """One candidate: cost of 1,000 images, recall by defect.

    Attributes:
        iou: Mean IoU over the defect classes.
        inspect_p95_ms: 95th percentile of `POST /inspect`.
        weights_from: Origin of the encoder's initial weights.
    """

    iou: float = 0.0
    inspect_p95_ms: float = 0.0
    weights_from: str = ""


def compare(
    settings: Settings, seeds: list[int], bar: ProgressBar, serve: ServeFiles
) -> list[ImageCandidateResult]:
    """Train, evaluate and time every candidate.

    Args:
        serve: Starts an inspector for each candidate's file.
    """
    metrics: dict[str, list[dict[str, float]]] = {name: [] for name in sorted(CANDIDATES.all())}
    files: dict[str, bytes] = {}
    origin: dict[str, str] = {}
    for seed in seeds:
        images: dict[int, tuple[ImageSplit, LabelledImages]] = {}
        for name in metrics:
            size = int(str(hyperparameters(name)["size"]))
            if size not in images:
                images[size] = _simulated_images(seed, size, bar)
            split, held_out = images[size]
            candidate, train_s = _train(name, split, seed, bar)
            threshold = _threshold(candidate, split.validation)
            metrics[name].append({**_evaluate(candidate, threshold, held_out), "train_s": train_s})
            card = model_card(candidate, threshold, split.fingerprint)
            files[name], origin[name] = write_card(candidate.export(), card), candidate.origin
    result = [
        ImageCandidateResult(
            name, f"{CANDIDATES.get(name).role}; weights: {origin[name]}",
            size_mb=len(files[name]) / 1e6, weights_from=origin[name], **average_runs(runs),
        )
        for name, runs in metrics.items()
    ]  # fmt: skip
    _time_calls(files, seeds[0], result)
    _time_requests(serve, files, seeds[0], result, bar)
    return result


def _simulated_images(seed: int, size: int, bar: ProgressBar) -> tuple[ImageSplit, LabelledImages]:
    split = simulated_split(seed, size, bar)
    with bar("simulating held-out images") as step:
        return split, simulated_held_out(seed, size, step)


def _train(
    name: str, split: ImageSplit, seed: int, bar: ProgressBar
) -> tuple[ImageCandidate, float]:
    candidate = new_candidate(name)
    begin = perf_counter()
    with bar(f"{name}, seed {seed}") as step, all_cores():
        candidate.fit(split.train, split.validation, seed, step)
    return candidate, perf_counter() - begin


def _threshold(candidate: ImageCandidate, valid: LabelledImages) -> float:
    return CostModel().best_threshold(candidate.score(valid), valid.positive, valid.amount)


def _evaluate(
    candidate: ImageCandidate, threshold: float, data: LabelledImages
) -> dict[str, float]:
    probabilities, masks = candidate.predict(data.vectors)
    score = 1.0 - probabilities[:, 0].astype(np.float64)
    stopped = score >= np.quantile(score, 1 - STOPPED_SHARE)
    recall = {
        f"recall_{name}": float(stopped[data.label == number].mean())
        for number, name in enumerate(CLASSES)
        if name != GOOD
    }
    cost = CostModel().total(score >= threshold, data.positive, data.amount)
    return {
        "ap": float(average_precision_score(data.positive, score)),
        "cost": cost * 1_000 / len(data),
        **recall,
        "iou": mask_iou(masks, data),
    }


def _time_calls(files: Mapping[str, bytes], seed: int, result: list[ImageCandidateResult]) -> None:
    """Time ONNX calls of one image on one thread, the candidates in turn."""
    models = {name: read_model(data) for name, data in files.items()}
    rng = np.random.default_rng(seed)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(CALLS):
        for name, model in models.items():
            shape = (1, model.size, model.size, 3)
            image = rng.integers(0, 256, shape, dtype=np.uint8)
            begin = perf_counter()
            model.inspect(image)
            seconds[name].append(perf_counter() - begin)
    for candidate in result:
        candidate.record_call_times(seconds[candidate.name])


def _time_requests(
    serve: ServeFiles,
    files: Mapping[str, bytes],
    seed: int,
    result: list[ImageCandidateResult],
    bar: ProgressBar,
) -> None:
    """Time `POST /inspect` on one inspector for each candidate, in turn."""
    camera = Camera(seed)
    posts = [{"data": camera.shot(_POSTED_FROM + number).jpeg()} for number in range(REQUESTS)]
    with (
        serve(_APP, files) as urls,
        bar("posting to each inspector in turn") as step,
    ):
        routes = {name: f"{url}/inspect" for name, url in urls.items()}
        answers = asyncio.run(post_in_turn(routes, posts, REQUESTS_PER_SECOND, step))
    for candidate in result:
        candidate.inspect_p95_ms = p95_ms(answers[candidate.name])
