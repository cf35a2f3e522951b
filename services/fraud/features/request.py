"""The features that come with a request, and its cart as a set: one request or a table of them.

The scorer computes them from a `Transaction`, training and the audit from the lake's rows. Both
use the same definitions, so the values have the same bytes.
"""

import math
import zlib
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from features.spec import TIME_COLUMN
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.events import ENTITIES, Transaction, microseconds
from services.platform.types import Floats, Floats32

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", float, Floats)

# UTC seconds, major units, items in the cart, highest price in the cart; the last two are NaN
# without a cart.
REQUEST_FEATURES = (
    "request_seconds",
    "request_amount",
    "request_items",
    "request_highest_price",
)
# An item of a cart: the bucket of its category (a hash, so that a new category needs no new
# vocabulary) and its price in major units.
ITEM_FEATURES = ("category_bucket", "price")
CATEGORY_BUCKETS = 256
# Pads a cart to the length of the longest, and stands for an empty one.
_PADDING = (-1.0, 0.0)


def _definitions(seconds: T, amount_minor: T, items: T, highest_minor: T) -> tuple[T, T, T, T]:
    """The request features in the order of `REQUEST_FEATURES`, for one request or for columns.

    >>> _definitions(1.65e9, 1250.0, 2.0, 999.0)
    (1650000000.0, 12.5, 2.0, 9.99)
    """
    return seconds, amount_minor / 100.0, items, highest_minor / 100.0


def request_features(transaction: Transaction) -> tuple[float, float, float, float]:
    """The features of one request, in the order of `REQUEST_FEATURES`."""
    prices = [item.price_minor for item in transaction.cart]
    return _definitions(
        microseconds(transaction.event_time) / 1e6,
        transaction.amount_minor,
        float(len(prices)) if prices else math.nan,
        max(prices) if prices else math.nan,
    )


def request_columns(rows: pa.Table) -> Floats:
    """The request features of N transactions of the lake, (N, len(REQUEST_FEATURES))."""
    cart = rows["cart"].combine_chunks()
    items = pc.list_value_length(cart).to_numpy().astype(np.float64)
    prices = pc.list_flatten(cart).field("price_minor").to_numpy()
    highest = np.full(len(items), np.nan)
    filled = items > 0
    if filled.any():
        begins = np.concatenate([[0], np.cumsum(items[filled])[:-1]]).astype(np.int64)
        highest[filled] = np.maximum.reduceat(prices, begins)
    amounts = rows["amount_minor"].to_numpy().astype(np.float64)
    items = np.where(filled, items, np.nan)
    return np.column_stack(_definitions(event_times(rows), amounts, items, highest))


def entity_frame(rows: pa.Table) -> "pd.DataFrame":
    """The entity frame for Feast: entities, event time, sequence and request features."""
    frame = rows.select([*ENTITIES, "seq"]).to_pandas()
    frame[TIME_COLUMN] = rows["event_time"].to_pandas()
    frame[list(REQUEST_FEATURES)] = request_columns(rows)
    return frame


def category_bucket(category: str) -> int:
    """The bucket of a category's name, in 0..CATEGORY_BUCKETS - 1.

    >>> category_bucket("shoes")
    151
    """
    return zlib.crc32(category.encode()) % CATEGORY_BUCKETS


def cart_set(transaction: Transaction) -> Floats32:
    """The cart of one request as a set, (1, M, len(ITEM_FEATURES)); padding if it is empty."""
    items = [(float(category_bucket(i.category)), i.price_minor / 100.0) for i in transaction.cart]
    return np.array([items or [_PADDING]], dtype=np.float32)


def cart_sets(rows: pa.Table) -> Floats32:
    """The carts of N transactions as sets, (N, M, len(ITEM_FEATURES)), padded to M items."""
    cart = rows["cart"].combine_chunks()
    count = pc.list_value_length(cart).to_numpy()
    items = pc.list_flatten(cart)
    owner = np.repeat(np.arange(len(count)), count)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    coded = pc.dictionary_encode(items.field("category"))
    names = coded.dictionary.to_pylist()
    buckets = np.array([category_bucket(name) for name in names], dtype=np.float32)
    longest = max(int(count.max(initial=1)), 1)
    sets = np.empty((len(count), longest, len(ITEM_FEATURES)), dtype=np.float32)
    sets[:] = _PADDING
    if len(owner):
        sets[owner, position, 0] = buckets[coded.indices.to_numpy()]
        sets[owner, position, 1] = items.field("price_minor").to_numpy() / 100.0
    return sets
