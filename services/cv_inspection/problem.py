"""Step 1, problem and KPI: what a wrong look at a part costs, in money.

Stop a good part and somebody looks at it again; let a defect through and it escapes to a customer,
who sends it back. An escape costs forty looks, so the threshold minimises the sum: accuracy would
pass everything on a line where one part in ten is bad, and IoU says how well a defect is outlined,
not whether it left the house. IoU is watched, never optimised for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.platform.evaluation import cost as kpi

REINSPECTION_COST_MINOR = 150
ESCAPE_COST_MINOR = 6_000
LATENCY_BUDGET_MS = 50.0

# A picture beyond these shows too little to judge (brightness and clipped share, 0..1), and a mask
# that covers this share of a part which would pass contradicts it: a person looks.
DARKEST, BRIGHTEST = 0.10, 0.93
MOST_CLIPPED = 0.40
MASK_WITHOUT_DEFECT = 0.01

# What is told apart: the first is a good part, the rest are defects. A data set of one's own
# brings its own classes, on its model's card.
GOOD: Final = "good"
CLASSES = (GOOD, "scratch", "pit", "crack", "stain", "missing_thread")

# Where hyperparameters are, a file a candidate.
CONF = Path(__file__).parent / "conf"


@dataclass(frozen=True)
class Kpi(kpi.Kpi):
    """The cost of decisions: FP x re-inspection + FN x escape, minor units.

    What an escape costs is each part's `amount`; nothing comes on top of it.
    """

    review: int = REINSPECTION_COST_MINOR
    fee: int = 0
