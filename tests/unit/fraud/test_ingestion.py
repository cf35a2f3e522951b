"""Messages: invalid ones are refused, and the error names the field."""

from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pytest
from pydantic import ValidationError

from services.fraud.features.states import FEATURE_SET, FEATURES
from services.fraud.ingestion.columns import Events
from services.fraud.ingestion.events import (
    MAX_ITEMS,
    LabelEvent,
    Transaction,
    TransactionEvent,
    microseconds,
    parse_event,
    subject,
)
from services.fraud.monitoring.drift import observe
from services.fraud.reasons.mix import WINDOW, ReasonMix
from services.platform.streaming.consumer import Message
from services.platform.streaming.messages import validation_message
from tests.identical import assert_identical

GOOD = {
    "transaction_id": "t1",
    "event_time": "2022-04-30T12:00:00.000001Z",
    "customer_id": "c1",
    "merchant_id": "m1",
    "device_id": "d1",
    "ip": "10.0.0.1",
    "amount_minor": 1234,
    "cart": [{"category": "bread", "price_minor": 1234}],
}
BAD = [
    ("amount_minor", -1),
    ("amount_minor", 12.5),
    ("amount_minor", "NaN"),
    ("amount_minor", 10**12),
    ("currency", "DOGE"),
    ("event_time", "2022-04-30T12:00:00"),
    ("event_time", "yesterday"),
    ("event_time", 1651320000),
    ("event_time", "1651320000"),
    ("event_time", "1651320000000"),
    ("event_time", "1651320000.5"),
    ("event_time", "1822-04-30T12:00:00Z"),
    ("event_time", "9999-04-30T12:00:00Z"),
    ("customer_id", ""),
    ("customer_id", "a b"),
    ("customer_id", None),
    ("customer_id", "c" * 65),
    ("merchant_id", "m.>"),
    ("ip", "300.1.2.3"),
    ("cart", [{"category": "bread", "price_minor": 1}] * (MAX_ITEMS + 1)),
    ("cart", [{"category": "bread", "price_minor": -1}]),
    ("colour", "blue"),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_bad_fields_are_named(field, value):
    with pytest.raises(ValidationError) as error:
        Transaction.model_validate_json(orjson.dumps({**GOOD, field: value}))
    assert validation_message(error.value).startswith(field)


def test_a_number_in_quotes_is_refused_with_what_to_send():
    with pytest.raises(ValidationError, match=r"ISO 8601.*2022-04-30T12:00:00Z"):
        Transaction.model_validate_json(orjson.dumps({**GOOD, "event_time": "1651320000"}))


@pytest.mark.parametrize(
    "text",
    ["2022-04-30T12:00:00Z", "2022-04-30t12:00:00z", "2022-04-30 12:00Z", "2022-04-30_12:00:00Z",
     "2022-04-30T14:00:00+0200", "2022-04-30T10:00:00\N{MINUS SIGN}02:00",
     "2022-04-30T12:00:00.000000000+00:00", "2022-04-30T12:00:00,0Z"],
)  # fmt: skip
def test_every_time_that_a_request_may_have_is_read_the_same_by_the_monitors(text):
    asked = Transaction.model_validate_json(orjson.dumps({**GOOD, "event_time": text}))
    assert asked.event_time == datetime(2022, 4, 30, 12, tzinfo=UTC)
    logged = {
        "feature_set": FEATURE_SET.hash, "features": [0.0] * len(FEATURES), "degraded": False,
        "model": "xgboost:1", "score": 0.1, "transaction": {"event_time": text},
    }  # fmt: skip
    found = observe(Message("", orjson.dumps(logged), 1, 0, ""))
    assert found is not None
    assert found.event_time_s == asked.event_time.timestamp()
    mix = ReasonMix()
    for seq in range(1, WINDOW + 1):
        mix.add(seq, logged, "transaction", {"transaction": 1.0})
    assert mix.closed[0]["event_time"] == asked.event_time


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b'{"amount_minor": NaN}', b"\xff"])
def test_bad_json_is_refused(raw):
    with pytest.raises(ValidationError) as error:
        Transaction.model_validate_json(raw)
    assert validation_message(error.value)


def test_absent_device_and_cart_are_null():
    bare = {k: v for k, v in GOOD.items() if k not in ("device_id", "ip", "cart")}
    found = Transaction.model_validate_json(orjson.dumps(bare))
    assert found.device_id is None
    assert found.ip is None
    assert found.cart == []
    assert subject("fraud.tx", found, 16).endswith(".none.none")


def test_a_subject_carries_a_shard_for_every_entity():
    found = Transaction.model_validate_json(orjson.dumps(GOOD))
    tokens = subject("fraud.tx", found, 4).split(".")
    assert len(tokens) == 6
    assert all(0 <= int(token) < 4 for token in tokens[2:])


def message(data, published):
    return Message("fraud.tx.1.1.1.1", orjson.dumps(data), 1, microseconds(published), "")


def test_an_event_from_the_future_is_refused():
    time = datetime(2022, 4, 30, 12, tzinfo=UTC)
    assert isinstance(parse_event(message(GOOD, time)), TransactionEvent)
    assert parse_event(message(GOOD, time - timedelta(hours=23)))
    with pytest.raises(ValueError, match="event_time: more than a day ahead"):
        parse_event(message(GOOD, time - timedelta(hours=25)))


def test_time_and_amount_become_floats():
    asked = TransactionEvent.model_validate_json(orjson.dumps(GOOD))
    label = LabelEvent(
        transaction_id="t1",
        event_time=asked.event_time,
        customer_id="c1",
        merchant_id="m1",
        fraud=True,
    )
    events = Events.of([asked, label], [7, 9])
    assert events.time[0] == microseconds(asked.event_time) / 1e6
    assert events.amount.tolist() == [12.34, 0.0]
    assert events.is_transaction.tolist() == [True, False]
    assert events.chargeback.tolist() == [False, True]


def test_tables_and_messages_give_the_same_columns(simulated):
    from services.fraud.simulator.tables import transaction

    day = simulated.days[0]
    asked = [TransactionEvent(**dict(transaction(day, i))) for i in range(200)]
    one = Events.of(asked, list(range(200)))
    table = simulated.transactions.slice(0, 200)
    two = Events.from_tables(table, None)
    assert_identical(one.time, two.time)
    assert_identical(one.amount, two.amount)
    for entity, keys in one.keys.items():
        assert list(keys) == list(two.keys[entity])
    assert np.array_equal(one.is_transaction, two.is_transaction)
