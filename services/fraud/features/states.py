"""The states of each entity and the names of the features, by group."""

from features.spec import HALF_LIFE_NAMES, Embedding, FeatureSpec, State
from services.fraud.features.request import ITEM_FEATURES, REQUEST_FEATURES
from services.fraud.ingestion.events import ENTITIES

SPENDING = ("transactions", "amount", "amount_squared", "labelled", "chargebacks")

CUSTOMER = State("customer_state", ("customer_id",), SPENDING, shard="customer_id")
MERCHANT = State("merchant_state", ("merchant_id",), SPENDING, shard="merchant_id")
PAIR = State(
    "customer_device_state", ("customer_id", "device_id"), ("transactions",), shard="device_id"
)
DEVICE = State(
    "device_state",
    ("device_id",),
    ("transactions", "labelled", "chargebacks", "new_customers"),
    shard="device_id",
)
IP = State("ip_state", ("ip",), ("transactions", "labelled", "chargebacks"), shard="ip")

# The pair is folded before the device, which counts new pairs.
STATES = (CUSTOMER, MERCHANT, PAIR, DEVICE, IP)

GROUPS: dict[str, tuple[str, ...]] = {
    "transaction": ("amount", "hour_of_day", "day_of_week", "cart_items", "cart_highest_price"),
    "customer_behaviour": (
        *(f"customer_transactions_{h}" for h in HALF_LIFE_NAMES),
        *(f"customer_mean_amount_{h}" for h in HALF_LIFE_NAMES),
        "customer_amount_zscore_7d",
        "customer_amount_zscore_30d",
        "customer_amount_ratio_30d",
        "customer_seconds_since_last",
        "customer_chargebacks_30d",
        "customer_risk_7d",
        "customer_risk_30d",
    ),
    "device_ip_risk": (
        *(f"device_transactions_{h}" for h in HALF_LIFE_NAMES),
        "device_new_customers_1d",
        "device_new_customers_30d",
        "device_risk_7d",
        "device_risk_30d",
        "device_seconds_since_last",
        "customer_device_is_new",
        "customer_device_transactions_30d",
        "ip_transactions_1h",
        "ip_transactions_1d",
        "ip_risk_30d",
    ),
    "merchant_profile": (
        *(f"merchant_transactions_{h}" for h in HALF_LIFE_NAMES),
        "merchant_mean_amount_30d",
        "merchant_amount_ratio_30d",
        *(f"merchant_chargebacks_{h}" for h in HALF_LIFE_NAMES[1:]),
        *(f"merchant_risk_{h}" for h in HALF_LIFE_NAMES[1:]),
    ),
}
TABULAR = tuple(name for group in GROUPS.values() for name in group)

# An embedding of each party in the transaction graph: see `graph.py`.
EMBEDDING_SIZE = 8
EMBEDDINGS = tuple(
    Embedding(f"{entity.removesuffix('_id')}_graph", (entity,), EMBEDDING_SIZE)
    for entity in ENTITIES
)
EMBEDDING_FEATURES = tuple(f"{view.name}_{i}" for view in EMBEDDINGS for i in range(EMBEDDING_SIZE))
EMBEDDING_GROUPS = {"graph": EMBEDDING_FEATURES}
FEATURES = TABULAR + EMBEDDING_FEATURES

# By name, the columns of each set that a candidate may ask for.
SETS = {"items": ITEM_FEATURES}

SPEC = FeatureSpec(
    design="fraud",
    states=STATES,
    groups=GROUPS,
    request_features=REQUEST_FEATURES,
    transform="services.fraud.features.kernel:transform_group",
    embeddings=EMBEDDINGS,
    embedding_groups=EMBEDDING_GROUPS,
)
