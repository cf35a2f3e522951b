"""ViT-Tiny with a dense prediction head: attention between all patches, at one resolution.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021.
"""

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.networks import DensePrediction
from services.cv_inspection.candidates.vision import TwoHeadCandidate


@CANDIDATES.register
class Vit(TwoHeadCandidate):
    """5.7 million weights in the encoder."""

    name = "vit"
    role = "accuracy, given weights to start from"
    encoder = "vit_tiny_patch16_224"
    network = DensePrediction
