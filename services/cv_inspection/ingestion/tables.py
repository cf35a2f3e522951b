"""The lake's tables of this design: names and schemas."""

from collections.abc import Mapping

import pyarrow as pa

INSPECTIONS_TABLE, LABELS_TABLE = "cv/inspections", "cv/verdicts"

INSPECTIONS = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("inspection_id", pa.string(), nullable=False),
        pa.field("key", pa.string()),
        pa.field("line", pa.string(), nullable=False),
        pa.field("station", pa.string(), nullable=False),
        pa.field("lot", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("defect", pa.float64(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("defect_share", pa.float64(), nullable=False),
        pa.field("novelty", pa.float64()),
        pa.field("brightness", pa.float64(), nullable=False),
        pa.field("contrast", pa.float64(), nullable=False),
        pa.field("sharpness", pa.float64(), nullable=False),
        pa.field("clipped", pa.float64(), nullable=False),
        # Null in inspections from before audits.
        pa.field("audit", pa.bool_()),
        pa.field("propensity", pa.float64()),
    ]
)
LABELS = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("inspection_id", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
    ]
)

SCHEMAS: Mapping[str, pa.Schema] = {INSPECTIONS_TABLE: INSPECTIONS, LABELS_TABLE: LABELS}
