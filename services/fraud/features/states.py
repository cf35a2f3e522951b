"""The declaration of all features: measures, the states that sum them, and the groups.

Names, documentation, positions, the compiled reading and the hash of the set follow from here.
`docs/features.md` adds a feature and a measure.
"""

from features.feature_set import FeatureSet
from features.groups import EmbeddingGroup, Feature, Group, for_each
from features.spec import HALF_LIVES, Embedding, Measure, State
from services.fraud.features.request import ITEM_FEATURES, REQUEST_FEATURES
from services.fraud.ingestion.columns import EVENT_COLUMNS
from services.fraud.ingestion.events import ENTITIES
from services.fraud.problem import DESIGN

TRANSACTIONS = Measure("transactions", "Transactions.", "transaction")
LABELLED = Measure("labelled", "Transactions whose outcome became known.", "label")
CHARGEBACKS = Measure("chargebacks", "Chargebacks, at the time they became known.", "chargeback")
SPENDING = (
    TRANSACTIONS,
    Measure("amount", "Amounts in major units.", "amount"),
    Measure("amount_squared", "Squares of the amounts.", "amount * amount"),
    LABELLED,
    CHARGEBACKS,
)

# Before rows and decisions carried the hash of their declaration, they were of this set.
FIRST_SET = "f32cef8ec5008619"

CUSTOMER = State(
    "customer_state",
    ("customer_id",),
    SPENDING,
    shard="customer_id",
    first_hash="d55c9cb10f384bd8",
)
MERCHANT = State(
    "merchant_state",
    ("merchant_id",),
    SPENDING,
    shard="merchant_id",
    first_hash="7e5f947f0abeccf7",
)
PAIR = State(
    "customer_device_state",
    ("customer_id", "device_id"),
    (TRANSACTIONS,),
    shard="device_id",
    first_hash="39297621ee1704e0",
)
NEW_CUSTOMERS = Measure(
    "new_customers", "First transactions of a customer on the device.", "first", first_of=PAIR
)
DEVICE = State(
    "device_state",
    ("device_id",),
    (TRANSACTIONS, LABELLED, CHARGEBACKS, NEW_CUSTOMERS),
    shard="device_id",
    first_hash="fd6a8d9d71c14a3b",
)
IP = State(
    "ip_state",
    ("ip",),
    (TRANSACTIONS, LABELLED, CHARGEBACKS),
    shard="ip",
    first_hash="3e5f6b5d3b79ab04",
)

# In the order of folding: the device counts new pairs.
STATES = (CUSTOMER, MERCHANT, PAIR, DEVICE, IP)

TRANSACTION = Group(
    "transaction",
    "The transaction itself.",
    {},
    (
        Feature("amount", "Amount in major units.", "the amount", "request_amount"),
        Feature(
            "hour_of_day",
            "Hour of the day, UTC.",
            "the time of day",
            "hour_of_day(request_seconds)",
        ),
        Feature(
            "day_of_week",
            "Day of the week, UTC, 0 for Monday.",
            "the day of the week",
            "day_of_week(request_seconds)",
        ),
        Feature("cart_items", "Items in the cart.", "the number of items", "request_items"),
        Feature(
            "cart_highest_price",
            "Highest price in the cart, major units.",
            "the dearest item",
            "request_highest_price",
        ),
    ),
)
CUSTOMER_BEHAVIOUR = Group(
    "customer_behaviour",
    "What the customer usually does.",
    {"customer": CUSTOMER},
    (
        *for_each(
            HALF_LIVES,
            Feature(
                "customer_transactions_{h}",
                "Transactions of the customer, half-life {h}.",
                "how often the customer pays ({h})",
                "customer.transactions",
            ),
        ),
        *for_each(
            HALF_LIVES,
            Feature(
                "customer_mean_amount_{h}",
                "Mean amount of the customer, half-life {h}.",
                "what the customer usually spends ({h})",
                "ratio(customer.amount, customer.transactions)",
            ),
        ),
        *for_each(
            ("7d", "30d"),
            Feature(
                "customer_amount_zscore_{h}",
                "Deviation of the amount from the customer's mean, in the customer's standard "
                "deviations, half-life {h}.",
                "the amount against the customer's usual ones ({h})",
                "zscore(request_amount, customer.transactions, customer.amount,"
                " customer.amount_squared)",
            ),
        ),
        Feature(
            "customer_amount_ratio_30d",
            "Amount over the customer's mean amount, half-life 30d.",
            "the amount against the customer's mean",
            "ratio(request_amount, ratio(customer.amount, customer.transactions))",
            "30d",
        ),
        Feature(
            "customer_seconds_since_last",
            "Seconds since the customer's last transaction.",
            "the time since the customer's last transaction",
            "since(request_seconds, customer.last_seen)",
        ),
        Feature(
            "customer_chargebacks_30d",
            "Chargebacks of the customer, half-life 30d.",
            "the customer's chargebacks",
            "customer.chargebacks",
            "30d",
        ),
        *for_each(
            ("7d", "30d"),
            Feature(
                "customer_risk_{h}",
                "Share of the customer's labelled transactions charged back, half-life {h}.",
                "the customer's share of chargebacks ({h})",
                "risk(customer.chargebacks, customer.labelled)",
            ),
        ),
    ),
)
DEVICE_IP_RISK = Group(
    "device_ip_risk",
    "The risk of the device, of the customer on it, and of the IP address.",
    {"device": DEVICE, "pair": PAIR, "ip": IP},
    (
        *for_each(
            HALF_LIVES,
            Feature(
                "device_transactions_{h}",
                "Transactions on the device, half-life {h}.",
                "how often the device is used ({h})",
                "device.transactions",
            ),
        ),
        *for_each(
            ("1d", "30d"),
            Feature(
                "device_new_customers_{h}",
                "Customers who used the device for the first time, half-life {h}.",
                "new customers on the device ({h})",
                "device.new_customers",
            ),
        ),
        *for_each(
            ("7d", "30d"),
            Feature(
                "device_risk_{h}",
                "Share of the device's labelled transactions charged back, half-life {h}.",
                "the device's share of chargebacks ({h})",
                "risk(device.chargebacks, device.labelled)",
            ),
        ),
        Feature(
            "device_seconds_since_last",
            "Seconds since the device's last transaction.",
            "the time since the device was used",
            "since(request_seconds, device.last_seen)",
        ),
        Feature(
            "customer_device_is_new",
            "1 if the customer never used the device.",
            "a device that is new for the customer",
            "is_new(pair.first_seq)",
        ),
        Feature(
            "customer_device_transactions_30d",
            "Transactions of the customer on the device, half-life 30d.",
            "how often the customer uses the device",
            "pair.transactions",
            "30d",
        ),
        *for_each(
            ("1h", "1d"),
            Feature(
                "ip_transactions_{h}",
                "Transactions from the IP address, half-life {h}.",
                "how often the address is used ({h})",
                "ip.transactions",
            ),
        ),
        Feature(
            "ip_risk_30d",
            "Share of the IP address's labelled transactions charged back, half-life 30d.",
            "the address's share of chargebacks",
            "risk(ip.chargebacks, ip.labelled)",
            "30d",
        ),
    ),
)
_FROM_A_DAY = ("1d", "7d", "30d")
MERCHANT_PROFILE = Group(
    "merchant_profile",
    "What the merchant usually sells, and its risk.",
    {"merchant": MERCHANT},
    (
        *for_each(
            HALF_LIVES,
            Feature(
                "merchant_transactions_{h}",
                "Transactions at the merchant, half-life {h}.",
                "how often the merchant sells ({h})",
                "merchant.transactions",
            ),
        ),
        Feature(
            "merchant_mean_amount_30d",
            "Mean amount at the merchant, half-life 30d.",
            "what is usually spent at the merchant",
            "ratio(merchant.amount, merchant.transactions)",
            "30d",
        ),
        Feature(
            "merchant_amount_ratio_30d",
            "Amount over the merchant's mean amount, half-life 30d.",
            "the amount against the merchant's mean",
            "ratio(request_amount, ratio(merchant.amount, merchant.transactions))",
            "30d",
        ),
        *for_each(
            _FROM_A_DAY,
            Feature(
                "merchant_chargebacks_{h}",
                "Chargebacks at the merchant, half-life {h}.",
                "the merchant's chargebacks ({h})",
                "merchant.chargebacks",
            ),
        ),
        *for_each(
            _FROM_A_DAY,
            Feature(
                "merchant_risk_{h}",
                "Share of the merchant's labelled transactions charged back, half-life {h}.",
                "the merchant's share of chargebacks ({h})",
                "risk(merchant.chargebacks, merchant.labelled)",
            ),
        ),
    ),
)

# An embedding of each party in the transaction graph: see `graph.py`.
EMBEDDING_SIZE = 8
_FIRST_GRAPH_HASHES = {
    "customer_id": "be3f8e7ae2dd5c67",
    "merchant_id": "b5f02a9d77274166",
    "device_id": "e31469205f9c74b3",
    "ip": "2db2e20ebdd3cc63",
}
GRAPH = EmbeddingGroup(
    "graph",
    "An embedding of each party in the transaction graph, refreshed nightly.",
    tuple(
        Embedding(
            f"{entity.removesuffix('_id')}_graph",
            (entity,),
            EMBEDDING_SIZE,
            f"whom the {entity.removesuffix('_id')} deals with",
            _FIRST_GRAPH_HASHES[entity],
        )
        for entity in ENTITIES
    ),
)

FEATURE_SET = FeatureSet(
    design=DESIGN,
    event_columns=EVENT_COLUMNS,
    request=REQUEST_FEATURES,
    time="request_seconds",
    states=STATES,
    groups=(TRANSACTION, CUSTOMER_BEHAVIOUR, DEVICE_IP_RISK, MERCHANT_PROFILE),
    embedding_groups=(GRAPH,),
    transform="services.fraud.features.kernel:transform_group",
)
TABULAR = FEATURE_SET.tabular
FEATURES = FEATURE_SET.features
GROUPS = FEATURE_SET.group_features
EMBEDDINGS = FEATURE_SET.embeddings
EMBEDDING_FEATURES = tuple(feature.name for feature in GRAPH.features)

# By name, the columns of each set that a candidate may ask for.
SETS = {"items": ITEM_FEATURES}
