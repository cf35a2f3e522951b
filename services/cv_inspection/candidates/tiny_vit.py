"""TinyViT-5M with a feature pyramid: attention in windows, and levels like a CNN's.

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", 2022.
`weights: FILE` in its conf initialises it from a state dict on disk.
"""

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.networks import Pyramid
from services.cv_inspection.candidates.vision import TwoHeadCandidate


@CANDIDATES.register
class TinyVit(TwoHeadCandidate):
    """5.2 million weights."""

    name = "tiny_vit"
    role = "accuracy, with a pyramid's masks"
    encoder = "tiny_vit_5m_224"
    network = Pyramid
