"""Step 1, problem and KPI: what a wrong decision about a part costs, in money.

A good part that is stopped is inspected again; a defect that passes escapes to a customer, who
sends it back. An escape costs as much as forty re-inspections, so the threshold is where both are
expected to cost the same.
Accuracy would pass every part of a line where one in ten is bad, and IoU measures how well a defect
is outlined, not whether the part was stopped: it is monitored, never optimised for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.platform.evaluation import cost

DESIGN: Final = "cv"
REINSPECTION_COST_MINOR = 150
ESCAPE_COST_MINOR = 6_000
LATENCY_BUDGET_MS = 50.0

# An image outside these limits shows too little for a decision (brightness and clipped share,
# 0..1), and a mask that covers this share of a part that would pass contradicts the class: both go
# to a person.
MIN_BRIGHTNESS, MAX_BRIGHTNESS = 0.10, 0.93
MAX_CLIPPED = 0.40
MAX_MASK_SHARE_OF_PASSED = 0.01
# Share of good parts that go to a person because they are unlike the good parts of training: each
# costs a re-inspection, less than one escape in eight thousand parts would.
MAX_NOVEL_SHARE = 0.005
# Share of good parts that a model stops that was trained before there were defects: what one in
# forty defective parts would cost.
MAX_FALSE_ALARM_SHARE = 0.02

# The classes: the first is a good part, the others are defects. A data set from a folder has
# classes of its own, which are on its model's card.
GOOD: Final = "good"
CLASSES = (GOOD, "scratch", "pit", "crack", "stain", "missing_thread")

# Folder with the hyperparameters, one file for each candidate.
CONF = Path(__file__).parent / "conf"


@dataclass(frozen=True)
class CostModel(cost.CostModel):
    """The cost of decisions in minor units: FP x re-inspection + FN x escape.

    The cost of an escape is the part's `amount`, with no fee on top.
    """

    opex: int = REINSPECTION_COST_MINOR
    fee: int = 0
