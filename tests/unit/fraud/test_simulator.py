"""The simulation: repeatable, plausible, and with drift where requested."""

import hashlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from services.fraud.ingestion.events import LabelEvent, SimulatedEvent, Transaction, microseconds
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.drift import Drift
from services.fraud.simulator.gateway import WallClock, simulated_events
from services.fraud.simulator.population import CATEGORIES, RESALE
from services.fraud.simulator.scenarios import CART_FRAUD, SCENARIOS, STOLEN_CARD
from services.fraud.simulator.tables import transaction, transaction_table
from services.fraud.simulator.traffic import Traffic


def digest(traffic, number):
    day = traffic.day(number)
    table = transaction_table(day, np.arange(len(day)))
    return hashlib.sha256("".join(str(c) for c in table.to_pydict().values()).encode()).hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_any_order():
    from services.fraud.simulator import traffic as module

    forward = [digest(Traffic(5), n) for n in (0, 1, 2)]
    module._day.cache_clear()
    module._population.cache_clear()
    assert [digest(Traffic(5), n) for n in (2, 0, 1)] == [forward[2], forward[0], forward[1]]
    assert digest(Traffic(6), 0) != forward[0]


def test_shares_of_fraud():
    scenario = np.concatenate([d.scenario for d in Traffic(7).days(0, 60)])
    share = (scenario > 0).mean()
    assert 0.006 < share < 0.010
    assert set(np.unique(scenario)) == set(range(len(SCENARIOS)))


def test_a_day_is_in_order_and_carts_add_up():
    day = Traffic(7).day(3)
    assert (np.diff(day.time) > 0).all()
    assert day.time[0] >= START_US + 3 * DAY_US
    begins = np.concatenate([[0], day.cart_end[:-1]])
    assert np.array_equal(np.add.reduceat(day.price, begins), day.amount)
    assert (day.price > 0).all()


def test_chargebacks_come_after_seven_days_and_within_the_window():
    days = list(Traffic(7).days(0, 30))
    delay = np.concatenate([(d.label_time - d.time)[d.scenario > 0] for d in days]) / DAY_US
    assert 6.5 < np.median(delay) < 7.5
    assert delay.max() < 14.0
    assert all(((d.label_time - d.time)[d.scenario == 0] == 14 * DAY_US).all() for d in days)


def test_cart_fraud_shows_in_the_items_and_not_in_the_amount():
    days = list(Traffic(7).days(0, 30))
    resale = [CATEGORIES.index(name) for name in RESALE]
    fraud, genuine = [], []
    for d in days:
        begins = np.concatenate([[0], d.cart_end[:-1]])
        kinds = np.add.reduceat(np.isin(d.category, resale).astype(int), begins)
        fraud.append(kinds[d.scenario == CART_FRAUD])
        genuine.append(kinds[d.scenario == 0])
    assert np.mean(np.concatenate(fraud)) > 2.5
    assert np.mean(np.concatenate(genuine)) < 1.0
    amounts = np.concatenate([d.amount[d.scenario == CART_FRAUD] for d in days])
    usual = np.concatenate([d.amount[d.scenario == 0] for d in days])
    assert 0.7 < np.median(amounts) / np.median(usual) < 1.4


def median(day):
    return np.median(day.amount)


def stolen(day):
    return (day.scenario == STOLEN_CARD).sum()


@pytest.mark.parametrize(
    ("drift", "is_visible"),
    [
        (
            Drift(covariate=1.0),
            lambda was, now: np.median(now.amount) > 1.3 * np.median(was.amount),
        ),
        (Drift(holiday=1.0), lambda was, now: len(now) > 1.4 * len(was)),
        (Drift(null_device=1.0), lambda _, now: (now.device == -1).all()),
        (
            Drift(concept=1.0),
            lambda was, now: (now.scenario == 1).sum() > (was.scenario == 1).sum(),
        ),
    ],
)
def test_each_drift_has_its_effect(drift, is_visible):
    assert is_visible(Traffic(7).day(20), Traffic(7, ((0, drift),)).day(20))


def test_a_drift_does_not_change_earlier_transactions():
    noon = START_US + 21 * DAY_US + DAY_US // 2
    evening = noon + DAY_US // 4
    still, changed = Traffic(7), Traffic(7, ((noon, Drift(covariate=1.0)), (evening, Drift())))
    assert np.array_equal(changed.day(20).amount, still.day(20).amount)
    was, now = still.day(21), changed.day(21)
    morning = int(np.searchsorted(was.time, noon))
    for name in ("time", "customer", "amount", "cart_end", "label_time"):
        assert np.array_equal(getattr(now, name)[:morning], getattr(was, name)[:morning])
    drifted = (now.time >= noon) & (now.time < evening)
    assert np.median(now.amount[drifted]) > 1.3 * np.median(was.amount[morning:])
    begins = np.concatenate([[0], now.cart_end[:-1]])
    assert np.array_equal(np.add.reduceat(now.price, begins), now.amount)
    assert (np.diff(now.time) > 0).all()
    assert np.array_equal(changed.day(22).amount, still.day(22).amount)


def test_drift_is_read_from_text():
    assert Drift.parse("covariate=0.5,null_device") == Drift(covariate=0.5, null_device=1.0)
    assert Drift.parse("none") == Drift.parse("") == Drift()
    with pytest.raises(ValueError, match="no drift called 'wind'"):
        Drift.parse("wind=1")
    with pytest.raises(ValueError, match=r"0\.\.1"):
        Drift.parse("concept=2")


def test_live_events_continue_at_the_cursor():
    events = simulated_events(Traffic(7), START_US + 20 * DAY_US + DAY_US // 2)
    first: list[SimulatedEvent] = [next(events) for _ in range(3_000)]
    times = [microseconds(h.event.event_time) for h in first]
    assert times == sorted(times)
    assert any(isinstance(h.event, LabelEvent) for h in first)
    again = simulated_events(Traffic(7), times[1_500])
    assert next(again).event == first[1_501].event


def test_no_event_is_sent_before_its_event_time():
    now = datetime(2026, 5, 1, tzinfo=UTC)
    clock = WallClock(now.timestamp)
    assert clock.wait_s(now - timedelta(days=900)) == 0.0
    assert clock.wait_s(now + timedelta(seconds=3)) == 3.0


def test_a_single_transaction_equals_its_row_in_the_table():
    day = Traffic(7).day(0)
    row = transaction_table(day, np.arange(len(day))).slice(5, 1).to_pylist()[0]
    request = transaction(day, 5)
    assert isinstance(request, Transaction)
    dumped = request.model_dump()
    assert {k: row[k] for k in dumped} == dumped
