"""Outcomes: inspections joined with operators' labels."""

import pandas as pd
import pyarrow as pa

from services.cv_inspection.ingestion.audit import WEIGHT, label_weights
from services.cv_inspection.ingestion.labels import is_good
from services.cv_inspection.problem import GOOD


def with_labels(inspections: pa.Table, labels: pa.Table) -> pd.DataFrame:
    """The labelled inspections, with the columns `label` and `weight`.

    The stream may repeat an inspection; of several labels the newest counts.

    Args:
        inspections: With the columns `audit.DRAWN_BY`, from which the weight follows.
        labels: Of operators and customers.
    """
    inspected = inspections.to_pandas().drop_duplicates("inspection_id")
    labelled = labels.select(["inspection_id", "label"]).to_pandas()
    # Labels of earlier versions were stored as operators spelt them.
    labelled["label"] = [GOOD if is_good(label) else label for label in labelled["label"]]
    found = inspected.merge(
        labelled.drop_duplicates("inspection_id", keep="last"), on="inspection_id"
    )
    return found.assign(**{WEIGHT: label_weights(found)})
