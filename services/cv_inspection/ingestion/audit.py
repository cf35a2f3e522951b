"""The audit share: passed parts that a person looks at, and what each label stands for.

A person looks at parts that were stopped. A part that passed has no label, unless it is drawn for
an audit, with a probability that is known, its propensity; or a customer sends it back weeks later.
A label of a stopped part counts once, one of an audit 1 / propensity times. Any other label of a
passed part counts 0 times: customers return defects only, and the audits stand for those already,
however many come back, and whenever. It is still an example to train on.

Source: Horvitz and Thompson, "A Generalization of Sampling Without Replacement from a Finite
Universe", 1952, doi:10.1080/01621459.1952.10483446.
"""

import numpy as np
import pandas as pd

from services.platform.evaluation.sampling import draw
from services.platform.types import Floats

# Columns of an inspection that its label's weight follows from.
DRAWN_BY = ("audit", "propensity")
WEIGHT = "weight"


def is_audited(inspection_id: str, share: float) -> bool:
    """Whether a person looks at a passed part: a hash decides, so a repeated inspection is alike.

    >>> is_audited("808efdcb1218e96f", 1.0), is_audited("808efdcb1218e96f", 0.0)
    (True, False)
    """
    return draw(inspection_id, "audit") < share


def label_weights(inspections: pd.DataFrame) -> Floats:
    """(N,) how often the label of each inspection counts in an estimate.

    Args:
        inspections: (N, columns) with `DRAWN_BY`. Inspections from before audits have no
            propensity: all of them were labelled, so each label counts once.

    >>> propensity, audit = [1.0, 0.25, 0.25, None], [False, True, False, None]
    >>> label_weights(pd.DataFrame({"propensity": propensity, "audit": audit})).tolist()
    [1.0, 4.0, 0.0, 1.0]
    """
    propensity = inspections["propensity"].astype(np.float64).fillna(1.0).to_numpy()
    looked_at = inspections["audit"].eq(True).to_numpy() | (propensity == 1.0)
    return np.where(looked_at, 1.0 / np.maximum(propensity, 1e-9), 0.0)
