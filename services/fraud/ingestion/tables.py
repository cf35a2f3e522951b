"""The fraud tables in the lake: paths, schemas, and filters of decisions."""

from collections.abc import Mapping
from dataclasses import fields

import pyarrow as pa
import pyarrow.compute as pc

from services.fraud.problem import CostModel

TRANSACTIONS_TABLE = "fraud/transactions"
LABELS_TABLE = "fraud/labels"
DECISIONS_TABLE = "fraud/decisions"
VERDICTS_TABLE = "fraud/verdicts"
TRUTH_TABLE = "fraud/truth"
STATE_LOG = "fraud/states"

# Filters: without the decisions of load tests; and without those taken without the online store.
NOT_SYNTHETIC = ~pc.field("synthetic")
NOT_DEGRADED = NOT_SYNTHETIC & ~pc.field("degraded")

_PARTIES = [
    pa.field("seq", pa.int64(), nullable=False),
    pa.field("transaction_id", pa.string(), nullable=False),
    pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("customer_id", pa.string(), nullable=False),
    pa.field("merchant_id", pa.string(), nullable=False),
    pa.field("device_id", pa.string()),
    pa.field("ip", pa.string()),
    # Null in rows from before feeds, and of clients that name none.
    pa.field("feed", pa.string()),
]
_ITEM = pa.struct([("category", pa.string()), ("price_minor", pa.int64())])
# What a decision was decided by; null in rows from before three outcomes.
COSTS_TYPE = pa.struct([(field.name, pa.float64()) for field in fields(CostModel)])
TRANSACTION_SCHEMA = pa.schema(
    [
        *_PARTIES,
        pa.field("amount_minor", pa.int64(), nullable=False),
        pa.field("currency", pa.string(), nullable=False),
        pa.field("cart", pa.list_(_ITEM), nullable=False),
        pa.field("outcome", pa.string()),
    ]
)
LABEL_SCHEMA = pa.schema([*_PARTIES, pa.field("fraud", pa.bool_(), nullable=False)])
DECISION_SCHEMA = pa.schema(
    [
        *_PARTIES,
        pa.field("amount_minor", pa.int64(), nullable=False),
        pa.field("cart", pa.list_(_ITEM), nullable=False),
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("degraded", pa.bool_(), nullable=False),
        pa.field("synthetic", pa.bool_(), nullable=False),
        pa.field("features", pa.list_(pa.float64()), nullable=False),
        pa.field("seqs", pa.map_(pa.string(), pa.int64()), nullable=False),
        pa.field("feature_set", pa.string()),
        # Null in decisions from before rules.
        pa.field("model_decision", pa.string()),
        pa.field("rules", pa.string()),
        pa.field("fired", pa.list_(pa.string())),
        pa.field("costs", COSTS_TYPE),
        # Null in decisions from before the control group, which had none.
        pa.field("control", pa.bool_()),
        pa.field("propensity", pa.float64()),
    ]
)
VERDICT_SCHEMA = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("verdict", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("waited_s", pa.float64(), nullable=False),
        pa.field("by", pa.string(), nullable=False),
    ]
)
SCHEMAS: Mapping[str, pa.Schema] = {
    TRANSACTIONS_TABLE: TRANSACTION_SCHEMA,
    LABELS_TABLE: LABEL_SCHEMA,
    DECISIONS_TABLE: DECISION_SCHEMA,
    VERDICTS_TABLE: VERDICT_SCHEMA,
}
