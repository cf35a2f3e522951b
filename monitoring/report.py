"""A report for people: Evidently's drift report of some window, as one HTML page.

Its statistics are Evidently's own (KS and PSI, https://docs.evidentlyai.com); the alarms are ours,
see `monitor.py`.
"""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from monitoring.reference import Reference

Floats = npt.NDArray[np.float64]


def write(reference: Reference, window: Floats, title: str, path: Path) -> None:
    """Write a window's report against its reference.

    Args:
        window: (N, F), columns as in the reference.

    Raises:
        ValueError: the window is empty.
    """
    if not len(window):
        raise ValueError("an empty window shows nothing")
    # It takes seconds to import, and nothing else here needs it; what it imports warns of itself.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from evidently import Report
        from evidently.metrics import ValueDrift

    names = list(reference.names)
    known = pd.DataFrame(reference.sample, columns=names)
    seen = pd.DataFrame(window, columns=names)
    filled = [name for name in names if known[name].notna().any() and seen[name].notna().any()]
    metrics = [ValueDrift(column=name, method=m) for name in filled for m in ("psi", "ks")]
    done = Report(metrics, metadata={"title": title}).run(seen, known)
    path.parent.mkdir(parents=True, exist_ok=True)
    done.save_html(str(path))
