"""Compare the candidates: recall of each defect, cost, latency and training time.

Every candidate is trained on the same images for several seeds, its threshold is chosen on the same
validation images, and it is evaluated on 2,000 others. Recalls are compared where all candidates
stop the same share of images: at its own threshold, the one that stops more would have more recall.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.image_candidate import ImageCandidate
from services.cv_inspection.features.labelled_images import ImageSplit, LabelledImages, mask_iou
from services.cv_inspection.model import read_model
from services.cv_inspection.problem import CLASSES, GOOD, CostModel
from services.cv_inspection.retraining.threshold import choose_threshold
from services.cv_inspection.retraining.training import (
    all_cores,
    image_size,
    make_card,
    new_candidate,
)
from services.cv_inspection.simulator.camera import Camera
from services.cv_inspection.simulator.labelled_images import simulated_held_out, simulated_split
from services.platform.evaluation.comparison import (
    CandidateResult,
    ComparedCandidate,
    ComparisonLabels,
    ComparisonSpec,
    Inputs,
    ServeFiles,
    compare_candidates,
)
from services.platform.models.onnx import write_card
from services.platform.progress import ProgressBar
from services.platform.runtime.tokens import client_headers
from services.platform.settings import Settings

STOPPED_SHARE = 0.10
CALLS = 300
REQUESTS, REQUESTS_PER_SECOND = 300, 10.0
_POSTED_FROM = 700_000
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


# By (height, width) in pixels, the images of a seed: for training, and held out.
_Images = Mapping[tuple[int, int], tuple[ImageSplit, LabelledImages]]


def compare(
    settings: Settings, seeds: list[int], bar: ProgressBar, serve: ServeFiles
) -> list[CandidateResult]:
    """Train, evaluate and time every candidate.

    Args:
        serve: Starts an inspector for each candidate's file.
    """
    spec = ComparisonSpec(
        result=ImageCandidateResult,
        labels=COMPARISON_LABELS,
        data=partial(_simulated_images, bar=bar),
        train=partial(_train, bar=bar),
        read_model=read_model,
        inputs=lambda _: _inputs(seeds[0]),
        app="services.cv_inspection.serving.app:create_app",
        route="/inspect",
        posts=_posts(seeds[0], client_headers(settings)),
        rate=REQUESTS_PER_SECOND,
    )
    return compare_candidates(spec, CANDIDATES, seeds, bar, serve)


def _simulated_images(seed: int, bar: ProgressBar) -> _Images:
    images = {}
    for size in sorted({image_size(name) for name in CANDIDATES.all()}):
        split = simulated_split(seed, size, math.inf, bar)
        with bar("simulating held-out images") as step:
            images[size] = split, simulated_held_out(seed, size, step)
    return images


def _train(name: str, seed: int, images: _Images, bar: ProgressBar) -> ComparedCandidate:
    split, held_out = images[image_size(name)]
    candidate = new_candidate(name)
    begin = perf_counter()
    with bar(f"{name}, seed {seed}") as step, all_cores():
        candidate.fit(split.train, split.validation, seed, step)
    train_s = perf_counter() - begin
    valid = split.validation
    threshold = choose_threshold(candidate.score(valid), valid.positive, valid.amount)
    card = make_card(candidate, threshold, split.fingerprint)
    return ComparedCandidate(
        {**_evaluate(candidate, threshold, held_out), "train_s": train_s},
        write_card(candidate.export(), card),
        {
            "role": f"{candidate.role}; weights: {candidate.origin}",
            "weights_from": candidate.origin,
        },
    )


def _evaluate(
    candidate: ImageCandidate, threshold: float, data: LabelledImages
) -> dict[str, float]:
    found = candidate.predict(data.vectors)
    score = 1.0 - found.probabilities[:, 0].astype(np.float64)
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
        "iou": mask_iou(found.masks, data),
    }


def _inputs(seed: int) -> Iterator[Inputs]:
    """One image each, at the candidates' size."""
    size = max(image_size(name) for name in CANDIDATES.all())
    rng = np.random.default_rng(seed)
    for _ in range(CALLS):
        yield rng.integers(0, 256, (1, *size, 3), dtype=np.uint8), {}


def _posts(seed: int, headers: Mapping[str, str]) -> list[dict[str, Any]]:
    camera, numbers = Camera(seed), range(_POSTED_FROM, _POSTED_FROM + REQUESTS)
    return [{"data": camera.shot(number).jpeg(), "headers": headers} for number in numbers]
