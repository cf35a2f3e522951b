"""What auditing a share of the passed parts costs and buys, by the champion of the running stack.

    python -m benchmarks.audit_share --images 2000

The champion inspects simulated images of the line, with sharp lenses and with blurred ones. Shifts
are drawn from those, with replacement; in each, the share of passed parts is audited. It prints for
each share the cost of a shift as its labels estimate it beside the true cost, what the audits cost,
and the true cost of a shift at the threshold that is cheapest by the labels of one day, three
shifts. Returns are left out: they come weeks later.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from services.cv_inspection.ingestion.events import ImageRef
from services.cv_inspection.model import ImageModel, read_model
from services.cv_inspection.problem import DESIGN, ESCAPE_COST_MINOR, GOOD, CostModel
from services.cv_inspection.serving.inspect import inspect
from services.cv_inspection.simulator.camera import Camera
from services.cv_inspection.simulator.drift import CameraDrift
from services.platform.models.served_file import get_served
from services.platform.settings import settings
from services.platform.types import Booleans, Floats, Integers

SHARES = (0.0, 0.02, 0.1, 1.0)
SHIFT, SHIFTS_A_DAY = 2_000, 3
_FROM = 800_000
_COSTS = CostModel()


@dataclass(frozen=True)
class Parts:
    """N inspected parts.

    Attributes:
        score: (N,) P(defect).
        defect: (N,) whether there is one.
        stopped: (N,) whether each was rejected or reviewed.
        reviewed: (N,) whether each was stopped whatever the threshold is.
    """

    score: Floats
    defect: Booleans
    stopped: Booleans
    reviewed: Booleans

    def __len__(self) -> int:
        return len(self.score)

    def select(self, rows: Integers | Booleans) -> "Parts":
        """Some of them."""
        return Parts(self.score[rows], self.defect[rows], self.stopped[rows], self.reviewed[rows])

    def costs(self, stopped: Booleans) -> Floats:
        """(N,) minor units, if these are stopped."""
        return _COSTS.costs(stopped, self.defect, _escapes(len(self)))


def inspected(model: ImageModel, images: int, drift: CameraDrift) -> Parts:
    """Images of the line as the champion decides them."""
    camera, at = Camera(7, drift=drift), datetime.now(UTC)
    rows = []
    for number in range(_FROM, _FROM + images):
        shot = camera.shot(number)
        event = inspect(model, shot.jpeg(), ImageRef.from_key(shot.key), at).event
        rows.append((event.defect, shot.label != GOOD, event.stopped, event.decision == "review"))
    score, *flags = (np.array(column) for column in zip(*rows, strict=True))
    return Parts(score, *flags)


def audited(parts: Parts, share: float, rng: np.random.Generator) -> tuple[Parts, Floats]:
    """The parts of a shift that a person looked at, and their weights."""
    drawn = rng.random(len(parts)) < share
    seen = parts.stopped | drawn
    weight = np.where(parts.stopped, 1.0, 1.0 / max(share, 1e-9))
    return parts.select(seen), weight[seen]


def day(parts: Parts, share: float, rng: np.random.Generator) -> tuple[float, ...]:
    """A day's figures, EUR a shift: estimate, truth, audits' cost, truth at its threshold."""
    count = SHIFTS_A_DAY * SHIFT
    of_day = parts.select(rng.integers(0, len(parts), count))
    seen, weight = audited(of_day, share, rng)
    passed = seen.select(~seen.stopped)
    estimate = float((seen.costs(seen.stopped) * weight).sum())
    # A person inspects it again; a defect that is found does not escape.
    audits = _COSTS.opex * len(passed) - ESCAPE_COST_MINOR * int(passed.defect.sum())
    free = ~seen.reviewed
    threshold = _COSTS.best_threshold(
        seen.score[free], seen.defect[free], _escapes(int(free.sum())), weight[free]
    )
    chosen = parts.costs((parts.score >= threshold) | parts.reviewed).mean() * count
    true = of_day.costs(of_day.stopped).sum()
    return tuple(float(x) / 100 / SHIFTS_A_DAY for x in (estimate, true, audits, chosen))


def figures(parts: Parts, days: int) -> Iterator[dict[str, float]]:
    """By share, means over days, and the standard deviation of the estimate's error."""
    for share in SHARES:
        rng = np.random.default_rng(0)
        rows = np.array([day(parts, share, rng) for _ in range(days)])
        estimate, true, audits, chosen = rows.mean(axis=0).round(1)
        spread = float((rows[:, 0] - rows[:, 1]).std().round(1))
        yield {"share": share, "true": true, "estimate": estimate, "error_sd": spread,
               "audits": audits, "at_chosen_threshold": chosen}  # fmt: skip


def _escapes(count: int) -> Floats:
    return np.full(count, float(ESCAPE_COST_MINOR))


def main() -> None:
    """Print a line of JSON for each lens and share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--days", type=int, default=500)
    parser.add_argument("--blur", type=float, default=0.4)
    parser.add_argument("--model", type=Path, help="in place of the champion")
    chosen = parser.parse_args()
    file = chosen.model.read_bytes() if chosen.model else get_served(settings(), DESIGN)
    model = read_model(file)
    for blur in (0.0, chosen.blur):
        parts = inspected(model, chosen.images, CameraDrift(blur=blur))
        for found in figures(parts, chosen.days):
            print(json.dumps({"blur": blur, "stopped": parts.stopped.mean().round(3), **found}))


if __name__ == "__main__":
    main()
