"""Outcomes: inspections joined with operators' labels."""

import pandas as pd
import pyarrow as pa

from services.cv_inspection.ingestion.labels import is_good
from services.cv_inspection.problem import GOOD


def with_labels(inspections: pa.Table, labels: pa.Table) -> pd.DataFrame:
    """The labelled inspections, with their operator's label as `label`.

    The stream may repeat an inspection; of several labels the newest counts.
    """
    inspected = inspections.to_pandas().drop_duplicates("inspection_id")
    labelled = labels.select(["inspection_id", "label"]).to_pandas()
    # Labels of earlier versions were stored as operators spelt them.
    labelled["label"] = [GOOD if is_good(label) else label for label in labelled["label"]]
    return inspected.merge(
        labelled.drop_duplicates("inspection_id", keep="last"), on="inspection_id"
    )
