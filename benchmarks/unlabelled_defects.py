"""Novelty alone, on a defect that no model is trained on: how many reach the limit of good parts.

    python -m benchmarks.unlabelled_defects --seed 7

Fitted on the good training images of the simulated camera; the limit is that of a card, on its good
validation images. Prints a line of JSON; needs no engines.
"""

import argparse
import json
from contextlib import nullcontext

import torch

from services.cv_inspection.candidates.novelty import Novelty
from services.cv_inspection.features.image import Pixels
from services.cv_inspection.features.labelled_images import LabelledImages
from services.cv_inspection.retraining.training import novelty_limit
from services.cv_inspection.simulator.drift import CameraDrift
from services.cv_inspection.simulator.labelled_images import simulated_images, simulated_split
from services.platform.types import Floats

SIDE = 128
DENTS, GOOD_PARTS = 200, 600
# Numbers of images that no split has.
_DENTS_FROM, _GOOD_FROM = 800_000, 900_000


def novelty_of(model: Novelty, pixels: Pixels) -> Floats:
    """(N,) novelty of (N, H, W, 3) images."""
    with torch.no_grad():
        parts = [model(torch.from_numpy(pixels[i : i + 50]))[0] for i in range(0, len(pixels), 50)]
    return torch.cat(parts).double().numpy()


def new_images(seed: int, first: int, count: int, defects: float) -> LabelledImages:
    """New images; all their defects are dents."""
    dents = CameraDrift(new_defect=1.0)
    return simulated_images(seed, first, count, defects, SIDE, lambda *_: None, dents)


def main() -> None:
    """Print how many dents and how many good parts reach the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=7)
    seed = parser.parse_args().seed
    split = simulated_split(seed, SIDE, 1.0, lambda _: nullcontext(lambda *_: None))
    model = Novelty(SIDE, SIDE)
    model.fit(split.train.vectors[~split.train.positive], seed)
    limit = novelty_limit(novelty_of(model, split.validation.vectors[~split.validation.positive]))
    found = {"seed": seed, "limit": round(limit, 2)}
    for name, first, count, defects in (
        ("dents", _DENTS_FROM, DENTS, 1.0), ("good_parts", _GOOD_FROM, GOOD_PARTS, 0.0),
    ):  # fmt: skip
        images = new_images(seed, first, count, defects)
        over = int((novelty_of(model, images.vectors) >= limit).sum())
        found |= {name: count, f"{name}_over": over}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
