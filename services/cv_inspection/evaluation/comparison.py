"""The candidates side by side: what each one sees of each defect, what it costs, how long it takes.

Every candidate is trained on the same pictures for several seeds, its threshold chosen on the same
pictures as they come, and judged on 2,000 others. What it finds is compared where all of them stop
the same share of pictures: at thresholds of their own, whoever stops more would seem to see more.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from sklearn.metrics import average_precision_score

from infra.local.apps import serving_files
from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.vision import ImageCandidate
from services.cv_inspection.features.labelled_images import Pictures
from services.cv_inspection.problem import CLASSES, GOOD, Kpi
from services.cv_inspection.retraining.training import (
    Split,
    all_cores,
    card_of,
    hyperparameters,
    mask_iou,
    new_candidate,
    simulated_held_out,
    simulated_split,
)
from services.cv_inspection.serving.model import read_model
from services.cv_inspection.simulator.camera import Camera
from services.platform.evaluation.comparison import Compared, Shown, averaged, p95_ms, post_in_turn
from services.platform.models.onnx import stamp
from services.platform.progress import Bar
from services.platform.settings import Settings

STOPPED = 0.10
CALLS = 300
PICTURES, PICTURES_A_SECOND = 300, 10.0
_POSTED_FROM = 700_000
_APP = "services.cv_inspection.serving.app:create_app"
SHOWN = Shown(
    stopped=STOPPED,
    subject="pictures",
    cost="cost of 1,000",
    extra=("iou", "IoU"),
    request=("inspect_p95_ms", "/inspect p95, ms"),
)


@dataclass
class ImageCompared(Compared):
    """One candidate: cost of 1,000 pictures, recall by defect.

    Attributes:
        iou: Mean IoU over the classes of defects. weights_from: What its encoder began with.
    """

    iou: float = 0.0
    inspect_p95_ms: float = 0.0
    weights_from: str = ""


def compare(settings: Settings, seeds: list[int], bar: Bar) -> list[ImageCompared]:
    """Train, judge and time every candidate."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sorted(CANDIDATES.all())}
    files: dict[str, bytes] = {}
    origin: dict[str, str] = {}
    for seed in seeds:
        shown: dict[int, tuple[Split, Pictures]] = {}
        for name in found:
            size = int(str(hyperparameters(name)["size"]))
            if size not in shown:
                shown[size] = _pictures(seed, size, bar)
            split, held_out = shown[size]
            candidate, spent = _trained(name, split, seed, bar)
            threshold = _threshold(candidate, split.validation)
            found[name].append({**_judged(candidate, threshold, held_out), "train_s": spent})
            card = card_of(candidate, threshold, split.fingerprint)
            files[name], origin[name] = stamp(candidate.export(), card), candidate.origin
    result = [
        ImageCompared(
            name, f"{CANDIDATES.get(name).role}; weights: {origin[name]}",
            size_mb=len(files[name]) / 1e6, weights_from=origin[name], **averaged(runs),
        )
        for name, runs in found.items()
    ]  # fmt: skip
    _time_calls(files, seeds[0], result)
    _time_requests(settings, files, seeds[0], result, bar)
    return result


def _pictures(seed: int, size: int, bar: Bar) -> tuple[Split, Pictures]:
    split = simulated_split(seed, size, bar)
    with bar("taking pictures to judge by") as step:
        return split, simulated_held_out(seed, size, step)


def _trained(name: str, split: Split, seed: int, bar: Bar) -> tuple[ImageCandidate, float]:
    candidate = new_candidate(name)
    begin = perf_counter()
    with bar(f"{name}, seed {seed}") as step, all_cores():
        candidate.fit(split.train, split.validation, seed, step)
    return candidate, perf_counter() - begin


def _threshold(candidate: ImageCandidate, valid: Pictures) -> float:
    return Kpi().best_threshold(candidate.score(valid), valid.positive, valid.amount)


def _judged(candidate: ImageCandidate, threshold: float, data: Pictures) -> dict[str, float]:
    kinds, masks = candidate.predict(data.vectors)
    score = 1.0 - kinds[:, 0].astype(np.float64)
    stopped = score >= np.quantile(score, 1 - STOPPED)
    recall = {
        f"recall_{name}": float(stopped[data.label == number].mean())
        for number, name in enumerate(CLASSES)
        if name != GOOD
    }
    cost = Kpi().total(score >= threshold, data.positive, data.amount)
    return {
        "ap": float(average_precision_score(data.positive, score)),
        "cost": cost * 1_000 / len(data),
        **recall,
        "iou": mask_iou(masks, data),
    }


def _time_calls(files: Mapping[str, bytes], seed: int, result: list[ImageCompared]) -> None:
    """ONNX calls of one picture on one thread, the candidates taking turns."""
    models = {name: read_model(data) for name, data in files.items()}
    rng = np.random.default_rng(seed)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(CALLS):
        for name, model in models.items():
            shape = (1, model.size, model.size, 3)
            picture = rng.integers(0, 256, shape, dtype=np.uint8)
            begin = perf_counter()
            model.inspect(picture)
            seconds[name].append(perf_counter() - begin)
    for one in result:
        one.called(seconds[one.name])


def _time_requests(
    settings: Settings,
    files: Mapping[str, bytes],
    seed: int,
    result: list[ImageCompared],
    bar: Bar,
) -> None:
    """`POST /inspect` on an inspector a candidate, in turn; inspections go nowhere."""
    camera = Camera(seed)
    posts = [{"data": camera.shot(_POSTED_FROM + number).jpeg()} for number in range(PICTURES)]
    with (
        serving_files(_APP, settings, files, heard=False) as urls,
        bar("asking each inspector in turn") as step,
    ):
        routes = {name: f"{url}/inspect" for name, url in urls.items()}
        answers = asyncio.run(post_in_turn(routes, posts, PICTURES_A_SECOND, step))
    for one in result:
        one.inspect_p95_ms = p95_ms(answers[one.name])
