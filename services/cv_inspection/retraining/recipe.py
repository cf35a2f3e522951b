"""The recipe for folders of real images, which have few parts, each in several images.

`train cv --data`, `evaluate cv` and `suspects cv` train by it, so that an evaluation measures what
training makes. The simulated line's models keep their conf's settings. Measurements of the recipe:
docs/inspection.md.
"""

from collections.abc import Mapping

from services.cv_inspection.features.image import read_size
from services.cv_inspection.retraining.training import learns_from_good_only

# The encoder's batch statistics and first layers stay ImageNet's, or training memorises the parts,
# and exposure varies as much as in the magnetic tiles. A crack is a pixel wide at 128 px.
RECIPE: Mapping[str, object] = {
    "size": 256,
    "epochs": 30,
    "batch": 32,
    "learning_rate": 0.0003,
    "small_share": 0.5,
    "frozen_layers": 4,
    "freeze_batch_norm": True,
    "focal_gamma": 0.0,
    "exposure_jitter": 0.4,
    "normalise_by_image": True,
    "pasted_share": 0.4,
    "pooled_dice_weight": 1.0,
    "lovasz_weight": 0.5,
    "class_map_weight": 0.5,
    "patch_weight": 0.5,
    "novelty_weight": 0.5,
}


def recipe(candidate: str, epochs: int = 0, image_size: str = "") -> dict[str, object]:
    """Hyperparameters in place of those of a candidate's conf.

    A candidate that learns from good parts alone trains no weights: it keeps its conf's input, on
    which depends how large an image it sees whole.

    Args:
        epochs: In place of the recipe's; 0: those.
        image_size: In place of the recipe's, see `read_size`; empty: that.

    Raises:
        KeyError: no such candidate.
        ValueError: the size is not one, or the candidate has no epochs.
    """
    good_only = learns_from_good_only(candidate)
    if good_only and epochs:
        raise ValueError(f"{candidate} fits a mean and a covariance: it has no --epochs")
    chosen = {} if good_only else dict(RECIPE)
    if epochs:
        chosen["epochs"] = epochs
    if image_size:
        chosen["size"] = list(read_size(image_size))
    return chosen
