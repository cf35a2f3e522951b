"""Processor time of one image: the recipe's networks by ONNX Runtime, one thread, calls in turn.

    python -m benchmarks.image_latency --calls 200

Each network is trained for one step, because weights do not change its time, and exported with its
novelty. The session's one thread is this one, whose processor time leaves waiting for other work
out. Prints a line of JSON for each; needs no engines.
"""

import argparse
import json
from time import thread_time

import numpy as np

from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.model import read_model
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.retraining.recipe import recipe
from services.cv_inspection.retraining.training import make_card, new_candidate
from services.cv_inspection.simulator.labelled_images import simulated_images
from services.platform.models.onnx import write_card

# Candidate and side of its input; the first is what the others are compared with.
NETWORKS = (("efficientnet", 224), ("efficientnet", 256), ("efficientnet_lite2", 256))
_WARM_UP_CALLS = 20
_IMAGES = 8


def exported(candidate: str, images: LabelledImages, side: int) -> bytes:
    """A network's file with its card, after one step of training."""
    made = new_candidate(candidate, CLASSES, {**recipe(candidate, 1, str(side)), "batch": _IMAGES})
    made.fit(images, images, 0, lambda *_: None)
    return write_card(made.export(), make_card(made, 0.5, "benchmark"))


def main() -> None:
    """Print a line of JSON for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    files = {
        (name, side): exported(
            name, simulated_images(0, 0, _IMAGES, 0.5, side, lambda *_: None), side
        )
        for name, side in NETWORKS
    }
    models = {f"{name} {side}": read_model(file) for (name, side), file in files.items()}
    seconds: dict[str, list[float]] = {}
    # Each takes an image of its own size, and they take turns, so that other load affects all.
    for _ in range(calls + _WARM_UP_CALLS):
        for name, model in models.items():
            image = np.random.default_rng(0).integers(0, 256, (1, *model.size, 3), np.uint8)
            begin = thread_time()
            model.inspect(image)
            seconds.setdefault(name, []).append(thread_time() - begin)
    first = float(np.median(next(iter(seconds.values()))[_WARM_UP_CALLS:]))
    for (name, taken), file in zip(seconds.items(), files.values(), strict=True):
        p50, p95 = np.percentile(taken[_WARM_UP_CALLS:], [50, 95])
        found = {"p50_ms": p50 * 1e3, "p95_ms": p95 * 1e3, "times_first": p50 / first}
        rounded = {key: round(float(value), 2) for key, value in found.items()}
        print(json.dumps({"network": name, **rounded, "mb": round(len(file) / 1e6, 1)}))


if __name__ == "__main__":
    main()
