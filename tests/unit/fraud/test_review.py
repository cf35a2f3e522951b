"""The policy, the price of a slot, the allocation that knows the day, and the queue's bound."""

from itertools import product

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pydantic import ValidationError

from services.fraud.evaluation.fortnight import _BOUND_S, Live, _Matching, known_day, simulate_queue
from services.fraud.ingestion.events import Transaction
from services.fraud.ingestion.lake_writer import to_row
from services.fraud.ingestion.tables import COSTS_TYPE, DECISION_SCHEMA, DECISIONS_TABLE
from services.fraud.problem import APPROVE, DECLINE, OUTCOMES, REVIEW, CostModel
from services.fraud.reasons.worker import counts_for_mix
from services.fraud.reasons.worker import parse as parse_reasons
from services.fraud.review import queue
from services.fraud.review.labels import label_of
from services.fraud.review.live import CostChange
from services.fraud.review.policy import (
    COSTS,
    Policy,
    UsualCosts,
    logged_costs,
    recompute,
    usual_costs,
)
from services.fraud.review.price import slot_price
from services.fraud.review.queue import Lease, LeaseLost
from services.fraud.review.worker import NAME, review_case
from services.fraud.serving.app import EXAMPLE_TRANSACTION
from services.platform.streaming.consumer import Message

INFINITE = float("inf")
chances = st.floats(0, 1)
amounts = st.integers(0, 1_000_000)
slots = st.sampled_from([0.0, 40.0, 300.0, INFINITE])


@given(chances, amounts, slots)
def test_no_other_outcome_is_expected_to_cost_less(probability, amount, slot):
    costs = CostModel(slot=slot)
    expected = list(costs.expected(probability, amount))
    expected[REVIEW] += slot
    assert expected[costs.outcome(probability, amount)] == min(expected)


@given(st.lists(st.tuples(chances, amounts), min_size=1, max_size=20), slots)
def test_arrays_decide_as_the_hot_path(cases, slot):
    costs = CostModel(slot=slot)
    score, amount = (np.array(column, float) for column in zip(*cases, strict=True))
    assert costs.outcomes(score, 0.5, amount).tolist() == [costs.outcome(p, a) for p, a in cases]


def test_without_analysts_costs_are_the_kpi_of_step_one():
    declined, fraud = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    costs, amount = CostModel(), np.full(4, 4_000.0)
    assert costs.costs(declined, fraud, amount).tolist() == [0, costs.opex, 4_000 + costs.fee, 0]
    assert REVIEW not in costs.outcomes(np.linspace(0, 1, 50), 0.5, np.full(50, 5_000.0))


def test_a_review_costs_minutes_and_the_analysts_errors():
    costs, amount = CostModel(), np.array([4_000.0, 4_000.0])
    fraud, genuine = costs.costs(np.array([REVIEW, REVIEW]), np.array([True, False]), amount)
    assert fraud == pytest.approx(costs.review + costs.missed * 5_500)
    assert genuine == pytest.approx(costs.review + costs.wrongly_stopped * costs.opex)


def test_a_transaction_is_reviewed_up_to_the_price_that_a_review_saves():
    score, amount = np.array([0.2]), np.array([5_000.0])
    [saved] = CostModel().saved_by_review(score, amount)
    assert CostModel(slot=saved - 1).outcome(0.2, 5_000) == REVIEW
    assert CostModel(slot=saved + 1).outcome(0.2, 5_000) == DECLINE


def test_the_price_rises_with_the_queue_and_is_infinite_where_it_is_full():
    prices = [slot_price(backlog, 2, CostModel()) for backlog in range(21)]
    assert prices == sorted(prices)
    assert (prices[0], prices[20]) == (0.0, INFINITE)
    assert slot_price(0, 0, CostModel()) == INFINITE


def logged(rows):
    """Logged decisions of (score, threshold, amount, costs or None)."""
    sheets = [c and orjson.loads(orjson.dumps(Policy(c).logged)) for *_, c in rows]
    names = ("score", "threshold", "amount_minor")
    columns = {n: [row[i] for row in rows] for i, n in enumerate(names)}
    return pa.table({**columns, "costs": pa.array(sheets, COSTS_TYPE)})


def test_logged_decisions_are_recomputed_from_what_they_logged():
    models = [None, CostModel(), CostModel(slot=0.0), CostModel(opex=9_000, slot=10.0)]
    rows = [(p, 0.4, a, c) for p, a, c in product((0.05, 0.3, 0.9), (100, 9_000), models)]
    expected = [int(p >= t) if c is None else c.outcome(p, a) for p, t, a, c in rows]
    assert recompute(logged(rows)).tolist() == expected
    new = CostModel(opex=20_000)
    changed = recompute(logged(rows), new).tolist()
    assert changed == [
        int(p >= t) if c is None else CostModel(opex=20_000, slot=c.slot).outcome(p, a)
        for p, t, a, c in rows
    ]
    assert changed != expected


def test_costs_survive_the_log():
    costs = CostModel(opex=800, missed=0.1, slot=12.5)
    assert logged_costs(orjson.loads(orjson.dumps(Policy(costs).logged))) == costs
    assert set(COSTS) == {field.name for field in COSTS_TYPE}


def test_models_are_compared_at_the_newest_costs_and_the_usual_price():
    sheets = [{"opex": 500, "slot": s} for s in (None, 10.0, 30.0)] + [{"opex": 800, "slot": 20.0}]
    logged = pa.chunked_array([[None, *sheets]], COSTS_TYPE)
    assert usual_costs(logged) == CostModel(opex=800, slot=25.0)
    assert usual_costs(logged.slice(0, 1)) == CostModel()
    # Part by part, as the gate reads them.
    costs = UsualCosts()
    for part in (logged.slice(0, 2), logged.slice(2, 1), logged.slice(3)):
        costs.add(part)
    assert costs.model() == usual_costs(logged)


@pytest.mark.parametrize("change", [{"opex": -1}, {"missed": 1.5}, {"fee": INFINITE}, {"opx": 1}])
def test_costs_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        CostChange(**change)


def test_the_matching_is_the_best_for_small_cases():
    rng = np.random.default_rng(1)
    for _ in range(30):
        first = rng.integers(0, 4, 6)
        last = first + rng.integers(0, 2, 6)
        value = rng.integers(1, 100, 6)
        matching = _Matching(first, last)
        found = sum(int(value[i]) for i in np.argsort(-value) if matching.add(int(i)))
        assert found == best(list(zip(first, last, value, strict=True)))


def best(jobs, slot=0):
    """Exhaustive: what the slots from `slot` on can earn."""
    if slot > 6:
        return 0
    usable = [j for j in jobs if j[0] <= slot <= j[1]]
    rest = (j[2] + best([k for k in jobs if k is not j], slot + 1) for j in usable)
    return max([best(jobs, slot + 1), *rest])


def rush(rng, count=4_000):
    """A day, half of whose transactions come within two hours."""
    time = np.sort(np.concatenate([rng.uniform(0, 86_400, count // 2),
                                   rng.uniform(30_000, 37_200, count // 2)]))  # fmt: skip
    score = rng.beta(0.08, 1.2, count)
    amount = rng.lognormal(8, 0.7, count).round()
    return Live(time, score, amount, rng.random(count) < score, rng.integers(0, 500, count))


def test_the_queue_stays_within_its_bound_in_a_rush_and_analysts_are_worth_it():
    live = rush(np.random.default_rng(0))
    run = simulate_queue(live, 2)
    assert len(run.waits) > 100
    assert (run.waits <= _BOUND_S).mean() > 0.99
    costs = CostModel()
    by_expectation = costs.expected(live.score, live.amount)

    def expected(outcome):
        return np.choose(outcome, by_expectation).sum()

    alone = expected(simulate_queue(live, 0).outcome)
    ahead = expected(known_day(live, 2))
    assert ahead < expected(run.outcome) < alone
    assert expected(run.outcome) < 1.05 * ahead


def test_without_analysts_nothing_is_reviewed():
    outcome = simulate_queue(rush(np.random.default_rng(0), 200), 0).outcome
    assert set(outcome.tolist()) == {APPROVE, DECLINE}


def message(**changes):
    event = {
        "transaction_id": "t", "decision_id": "d", "decision": "review", "score": 0.3,
        "threshold": 0.5, "model": "xgboost:1", "degraded": False, "features": [], "seqs": {},
        "costs": {"slot": 10.0},
        "transaction": {"transaction_id": "t", "event_time": "2022-05-01T12:30:00Z",
                        "customer_id": "c", "merchant_id": "m", "amount_minor": 5_000},
        **changes,
    }  # fmt: skip
    return Message("fraud.decision.1", orjson.dumps(event), 1, 0, "")


def test_a_decision_to_review_becomes_a_case_with_a_default():
    case = review_case(message())
    assert case is not None
    assert case.otherwise == OUTCOMES[CostModel().outcome(0.3, 5_000)] == "decline"
    assert review_case(message(decision="approve")) is None
    assert review_case(message(synthetic=True)) is None
    assert review_case(message(score="x")) is None


def of_a_later_version():
    """A decision with fields that this version does not know, at each level."""
    return message(
        latency_class=1,
        costs={"slot": 10.0, "late_fee": 2.0},
        transaction={**EXAMPLE_TRANSACTION, "transaction_id": "t", "channel": "web",
                     "cart": [{"category": "shoes", "price_minor": 3_999, "size": 43}]},
    )  # fmt: skip


def test_what_a_later_version_publishes_is_read():
    later = of_a_later_version()
    table, row = to_row(later)
    assert (table, row["transaction_id"], row["cart"][0]["category"]) == (
        DECISIONS_TABLE, "t", "shoes"
    )  # fmt: skip
    written = pa.Table.from_pylist([{"seq": 1, **row}], schema=DECISION_SCHEMA)
    assert written["costs"][0].as_py()["slot"] == 10.0
    case = review_case(later)
    assert case.otherwise == OUTCOMES[CostModel().outcome(0.3, 4_599)]
    assert parse_reasons(later)["latency_class"] == 1
    event = {**orjson.loads(later.data), "decision": "decline", "score": 0.9}
    assert counts_for_mix(event)
    verdict = {
        "decision_id": "d", "transaction_id": "t", "event_time": "2022-05-01T12:30:00Z",
        "verdict": "fraud", "outcome": "decline", "waited_s": 1.0, "by": "ann", "device": "phone",
        "transaction": {**EXAMPLE_TRANSACTION, "channel": "web"},
    }  # fmt: skip
    assert label_of(orjson.dumps(verdict)).fraud
    data = {**case.model_dump(mode="json"), "priority": 1}
    assert queue._parse(orjson.dumps(data)) == case


def test_a_request_has_no_unknown_field():
    with pytest.raises(ValidationError, match="channel"):
        Transaction.model_validate({**EXAMPLE_TRANSACTION, "channel": "web"})


def test_what_cannot_be_read_is_counted_and_logged(caplog):
    def count():
        labels = {"consumer": NAME, "outcome": "unreadable"}
        return REGISTRY.get_sample_value("events_total", labels) or 0.0

    before = count()
    assert review_case(message(score=None)) is None
    assert count() == before + 1
    assert "a DecisionEvent cannot be read: score" in caplog.text


def test_a_lease_is_what_its_token_says_and_no_forged_one_counts():
    case = review_case(message())
    lease = Lease(case, "$JS.ACK.x", 99.0, 1.5)
    token = lease.token("key")
    assert Lease.of_token(token, "key") == lease
    for forged, key in ((token, "other"), (token[:-1] + "x", "key"), ("", "key"), ("ä.ö", "key")):
        with pytest.raises(LeaseLost, match="not valid"):
            Lease.of_token(forged, key)
