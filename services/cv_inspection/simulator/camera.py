"""The camera: renders a surface, a defect on some parts, light, lens and sensor, with the mask.

The same seed gives the same images. Each line has its own surface and each station its own lamp, so
images of one line are more alike than images of two lines.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from scipy import ndimage

from services.cv_inspection.problem import GOOD
from services.cv_inspection.simulator.defects import DEFECT_GENERATORS
from services.cv_inspection.simulator.drift import CameraDrift
from services.cv_inspection.simulator.surfaces import DEFECTS, Reflectance, window

SIZE = 256
LINES = {"line-a": "steel", "line-b": "tile", "line-c": "textile"}
STATIONS = 2
LOT_SIZE = 50
DEFECT_SHARE = 0.10
# Images are numbered; live images begin here, and no first model is trained on them.
LIVE_FROM = 1_000_000
_QUALITY = 90


@dataclass(frozen=True)
class Shot:
    """One image of the camera, with its ground truth.

    Attributes:
        line: Line it was taken on.
        station: Station of the line.
        lot: Lot of the part.
        frame: Number of the image.
        pixels: (S, S) uint8.
        mask: (S, S) bool, where the defect is.
        label: Class of the part.
    """

    line: str
    station: str
    lot: str
    frame: str
    pixels: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    label: str

    @property
    def key(self) -> str:
        """Its key in the inbox."""
        return f"{self.line}/{self.station}/{self.lot}/{self.frame}.jpg"

    def jpeg(self) -> bytes:
        """The image as a JPEG file."""
        out = io.BytesIO()
        Pillow.fromarray(self.pixels).save(out, "JPEG", quality=_QUALITY)
        return out.getvalue()


class Camera:
    """Takes images, the stations of all lines in turn."""

    def __init__(
        self,
        seed: int,
        defect_share: float = DEFECT_SHARE,
        drift: CameraDrift | None = None,
        size: int = SIZE,
        lines: tuple[str, ...] = tuple(LINES),
    ) -> None:
        """Set up the camera.

        Args:
            defect_share: Share of the parts that have a defect.
            drift: What changes on purpose; nothing if None.
            size: Side of the images, pixels.

        Raises:
            ValueError: the drift names an unknown station.
        """
        self._seed = seed
        self._defect_share = defect_share
        self._drift = drift or CameraDrift()
        self._size = size
        self._lines = lines
        stations = [f"{line}/station-{s + 1}" for line in lines for s in range(STATIONS)]
        if self._drift.at not in ("", *stations):
            raise ValueError(f"no station {self._drift.at!r}: choose from {', '.join(stations)}")

    def shots(self, first: int = 0) -> Iterator[Shot]:
        """Images from number `first` on, without an end."""
        number = first
        while True:
            yield self.shot(number)
            number += 1

    def shot(self, number: int) -> Shot:
        """One image; the same number always gives the same image."""
        rng = np.random.default_rng([self._seed, number])
        line = self._lines[number % len(self._lines)]
        station = (number // len(self._lines)) % STATIONS
        drift = self._drift_at(f"{line}/station-{station + 1}")
        count = number // (len(self._lines) * STATIONS)
        surface = LINES[line]
        scene = window(surface, self._seed, self._size, rng)
        label, mask = GOOD, np.zeros((self._size, self._size), dtype=np.float32)
        if rng.random() < self._defect_share:
            label = _choose_defect(surface, drift, rng)
            mask, change = DEFECT_GENERATORS[label](rng, self._size, rng.random())
            scene = scene + change * mask
        pixels = _sensor(self._light(scene, station, drift, rng), drift, rng)
        return Shot(
            line, f"station-{station + 1}", f"lot-{count // LOT_SIZE:05d}", f"{number:08d}",
            pixels, mask >= 0.5, label,
        )  # fmt: skip

    def _drift_at(self, station: str) -> CameraDrift:
        return self._drift if self._drift.at in ("", station) else CameraDrift()

    def _light(
        self, scene: Reflectance, station: int, drift: CameraDrift, rng: np.random.Generator
    ) -> Reflectance:
        """Illuminate (S, S) reflectance: a slope over the image, and a gain."""
        slope = np.linspace(-1, 1, self._size, dtype=np.float32)
        tilt_x, tilt_y = rng.normal(0, 0.06, 2)
        lamp = 1.0 + tilt_x * slope[None, :] + tilt_y * slope[:, None]
        gain = (1.0 + 0.08 * station) * rng.normal(1.0, 0.05) * (1.0 - 0.55 * drift.exposure)
        return (scene * lamp * gain).astype(np.float32)


def _choose_defect(surface: str, drift: CameraDrift, rng: np.random.Generator) -> str:
    if rng.random() < drift.new_defect:
        return "dent"
    return str(rng.choice(DEFECTS[surface]))


def _sensor(
    scene: Reflectance, drift: CameraDrift, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Lens and sensor, (S, S): blur, noise, 8 bits."""
    blur = abs(rng.normal(0.35, 0.15)) + 2.5 * drift.blur
    image = ndimage.gaussian_filter(scene, blur, truncate=3.0)
    image += rng.standard_normal(image.shape, dtype=np.float32) * 0.012
    return np.asarray(np.clip(image * 255.0 + 0.5, 0, 255), dtype=np.uint8)
