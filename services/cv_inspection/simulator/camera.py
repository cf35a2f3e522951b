"""The camera: a surface, perhaps a defect, light, lens and sensor; the mask goes along.

The same seed gives the same pictures. Each line has a surface and each of its stations a lamp of
its own, so a line's pictures are more alike than pictures of two lines.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from scipy import ndimage

from services.cv_inspection.problem import GOOD
from services.cv_inspection.simulator.defects import KINDS
from services.cv_inspection.simulator.drift import Drift
from services.cv_inspection.simulator.surfaces import DEFECTS, Image, window

SIZE = 256
LINES = {"line-a": "steel", "line-b": "tile", "line-c": "textile"}
STATIONS = 2
LOT = 50
DEFECT_SHARE = 0.10
# Pictures are numbered; the live ones begin here, and no model is trained on those at first.
LIVE_FROM = 1_000_000
_QUALITY = 90


@dataclass(frozen=True)
class Shot:
    """One picture as the camera took it, and the truth about it.

    Attributes:
        line, station, lot, frame: Where and when it was taken.
        pixels: (S, S) uint8. mask: (S, S) bool, where the defect is. label: Its class.
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
        """Where a station puts it, below the bucket."""
        return f"{self.line}/{self.station}/{self.lot}/{self.frame}.jpg"

    def jpeg(self) -> bytes:
        """The picture as a file."""
        out = io.BytesIO()
        Pillow.fromarray(self.pixels).save(out, "JPEG", quality=_QUALITY)
        return out.getvalue()


class Camera:
    """Takes pictures, the stations of all lines in turn."""

    def __init__(
        self,
        seed: int,
        defects: float = DEFECT_SHARE,
        drift: Drift | None = None,
        size: int = SIZE,
        lines: tuple[str, ...] = tuple(LINES),
    ) -> None:
        """See the module; ValueError if the drift is at a station that there is not."""
        self._seed = seed
        self._defects = defects
        self._drift = drift or Drift()
        self._size = size
        self._lines = lines
        stations = [f"{line}/station-{s + 1}" for line in lines for s in range(STATIONS)]
        if self._drift.at not in ("", *stations):
            raise ValueError(f"no station {self._drift.at!r}: choose from {', '.join(stations)}")

    def shots(self, first: int = 0) -> Iterator[Shot]:
        """Pictures number `first` and on, for ever."""
        number = first
        while True:
            yield self.shot(number)
            number += 1

    def shot(self, number: int) -> Shot:
        """One picture. The same number gives the same picture, whatever was taken before."""
        rng = np.random.default_rng([self._seed, number])
        line = self._lines[number % len(self._lines)]
        station = (number // len(self._lines)) % STATIONS
        drift = self._drift_at(f"{line}/station-{station + 1}")
        count = number // (len(self._lines) * STATIONS)
        surface = LINES[line]
        scene = window(surface, self._seed, self._size, rng)
        label, mask = GOOD, np.zeros((self._size, self._size), dtype=np.float32)
        if rng.random() < self._defects:
            label = _which(surface, drift, rng)
            mask, change = KINDS[label](rng, self._size, rng.random())
            scene = scene + change * mask
        pixels = _sensor(self._light(scene, station, drift, rng), drift, rng)
        return Shot(
            line, f"station-{station + 1}", f"lot-{count // LOT:05d}", f"{number:08d}",
            pixels, mask >= 0.5, label,
        )  # fmt: skip

    def _drift_at(self, place: str) -> Drift:
        return self._drift if self._drift.at in ("", place) else Drift()

    def _light(self, scene: Image, station: int, drift: Drift, rng: np.random.Generator) -> Image:
        """Lamps: a slope of light over the picture, and how bright it is."""
        slope = np.linspace(-1, 1, self._size, dtype=np.float32)
        tilt_x, tilt_y = rng.normal(0, 0.06, 2)
        lamp = 1.0 + tilt_x * slope[None, :] + tilt_y * slope[:, None]
        gain = (1.0 + 0.08 * station) * rng.normal(1.0, 0.05) * (1.0 - 0.55 * drift.exposure)
        return (scene * lamp * gain).astype(np.float32)


def _which(surface: str, drift: Drift, rng: np.random.Generator) -> str:
    if rng.random() < drift.new_defect:
        return "dent"
    return str(rng.choice(DEFECTS[surface]))


def _sensor(scene: Image, drift: Drift, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Lens and sensor: a little blur always, noise, 8 bits."""
    blur = abs(rng.normal(0.35, 0.15)) + 2.5 * drift.blur
    seen = ndimage.gaussian_filter(scene, blur, truncate=3.0)
    seen += rng.standard_normal(seen.shape, dtype=np.float32) * 0.012
    return np.asarray(np.clip(seen * 255.0 + 0.5, 0, 255), dtype=np.uint8)
