"""Rules: what is refused and why, which rules fire, and what the back-test makes of them."""

import textwrap
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from services.fraud.features.states import TABULAR
from services.fraud.ingestion.events import Transaction
from services.fraud.monitoring.rules import audit_rules
from services.fraud.problem import OUTCOMES, CostModel
from services.fraud.rules import backtest, files
from services.fraud.rules.backtest import DecidedTransactions, back_test, outcomes_of
from services.fraud.rules.evaluation import CompiledRules, transaction_texts
from services.fraud.rules.expression import TEXTS, RuleRefused
from services.fraud.rules.files import read_rules, shipped_rules
from services.fraud.rules.lists import ListRefused, list_text, read_values, reference
from services.fraud.rules.logged import texts_of
from services.fraud.rules.outcome import combine
from services.fraud.rules.rule import Rule, RuleSet
from services.fraud.serving.app import EXAMPLE_TRANSACTION


def rule(when, name="one", action="decline", **fields):
    return Rule(id=name, when=when, action=action, reason="why", owner="me", **fields)


def compiled(*rules, **lists):
    texts = {name: list_text(name, values) for name, values in lists.items()}
    references = {name: reference(text) for name, text in texts.items()}
    values = {name: read_values(name, references[name], text) for name, text in texts.items()}
    return CompiledRules(RuleSet(rules=rules, lists=references), 1, values)


def vector(**values):
    made = np.ones(len(TABULAR))
    for name, value in values.items():
        made[TABULAR.index(name)] = value
    return made


def fired(rules, made, score=0.1, **fields):
    transaction = Transaction(**{**EXAMPLE_TRANSACTION, **fields})
    return [one.id for one in rules.fired(transaction, made, score)]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("amount >", "no CEL expression"),
        ("amont > 5.0", "did you mean amount"),
        ("graph_customer_0 > 1.0", "unknown name"),
        ("device_id in lists.stolen", "unknown list 'stolen'"),
        ("amount in lists.known", "'amount' is none of"),
        ("size(lists.known) > 3", "looked up as"),
        ("[1, 2].map(amount, amount) == [1]", "map is not allowed"),
        ("merchant_id.matches('m.*')", "function 'matches'"),
        ("amount", "no truth value"),
        ("2 * amount > 10", "Numbers are doubles"),
        ("amount > customer_id", "Numbers are doubles"),
        ("amount > 1.0 && customer_id == 42", 'is a text: write "42"'),
    ],
)
def test_what_cannot_be_a_rule_is_refused_with_its_reason(when, said):
    with pytest.raises(RuleRefused, match="one: ") as refused:
        compiled(rule(when), known=["d1"]).check()
    assert said in str(refused.value)


def test_a_set_that_takes_too_long_is_refused():
    slow = " || ".join(["amount < 0.0"] * 31)
    rules = [rule(slow, f"r{n}") for n in range(200)]
    with pytest.raises(RuleRefused, match="us a transaction"):
        compiled(*rules).check()


def test_rules_fire_on_features_texts_lists_and_the_score():
    rules = compiled(
        rule("amount >= 45 && score > 0.5", "both"),
        rule("device_id in lists.stolen", "listed"),
        rule("merchant_id == 'device_id in lists.stolen' || customer_merchant == 'c42|m7'", "pair"),
        stolen=["d126", "d7"],
    )
    rules.check()
    assert fired(rules, vector(amount=45.99), 0.6) == ["both", "listed", "pair"]
    assert fired(rules, vector(amount=45.99), 0.4, device_id="d1", customer_id="c1") == []


def test_a_rule_does_not_fire_where_a_number_it_reads_is_missing():
    rules = compiled(rule("amount > 0.0 || cart_items > 1.0", "reads"), rule("amount > 0", "other"))
    assert fired(rules, vector(cart_items=np.nan)) == ["other"]
    assert rules.errors == {}


def test_a_rule_fires_within_its_time_of_validity_only():
    begins = "2022-05-01T12:30:00Z"
    rules = compiled(
        rule("true", "from", valid_from=begins), rule("true", "until", valid_until=begins)
    )
    assert fired(rules, vector()) == ["from"]
    assert fired(rules, vector(), event_time="2022-05-01T12:29:59Z") == ["until"]


def test_guards_change_nothing_but_the_time():
    expressions = [
        "amount > 1.0 && score < 0.5",
        "amount > 1 || score < 0.5",
        "!(amount > 1.0 && score < 0.5)",
        "hour_of_day == 1 && (amount > 1.0 || score >= 0.5)",
        "amount > -0.5 && merchant_id != 'a && amount < 0 && b'",
        "device_id in lists.known && amount <= 1",
        "!(device_id in lists.known) && amount < 1.5",
        "amount > 0.5 ? score > 0.5 : score < 0.5",
        "amount > 0.5 // don't && score < 0.2\n && amount < 1.5",
    ]
    guarded = compiled(*(rule(when, f"r{n}") for n, when in enumerate(expressions)), known=["d1"])
    plain = compiled(*guarded.rules, known=["d1"])
    plain._guards = [((0, -np.inf, np.inf), []) for _ in plain.rules]
    random = np.random.default_rng(0)
    vectors = random.choice([0.0, 0.5, 1.0, 2.0, np.nan], (500, len(TABULAR)))
    scores, times = random.choice([0.1, 0.5, 0.9], 500), np.zeros(500, np.int64)
    texts = {name: ["d1", "d2", ""] * 166 + ["a", "b"] for name in TEXTS}
    made = guarded.fired_matrix(vectors, scores, texts, times)
    assert (made == plain.fired_matrix(vectors, scores, texts, times)).all()
    assert made.any(axis=0).all()
    assert [len(one.guards) for one in guarded._compiled] == [2, 0, 0, 0, 1, 2, 1, 0, 2]


def test_a_rule_that_fails_on_live_values_is_counted_and_the_others_fire():
    # No probe reaches the mistake behind the comparison with this merchant.
    rules = compiled(rule("merchant_id == 'm7' && 2 * amount > 1.0", "bad"), rule("true", "good"))
    rules.check()
    assert fired(rules, vector()) == ["good"]
    assert rules.errors == {"bad": 1}


def test_the_precedence_of_actions():
    assert combine("approve", {"decline", "approve", "review"}) == "decline"
    assert combine("decline", {"approve", "review"}) == "approve"
    assert combine("approve", {"review", "observe"}) == "review"
    assert combine("decline", {"review"}) == "decline"
    assert combine("review", set()) == "review"


def test_a_table_fires_as_its_rows_do(simulated):
    made = compiled(
        rule("customer_device_is_new == 1 && amount > 50", "a"),
        rule("customer_device in lists.known && score < 0.5", "b"),
        rule("cart_items >= 2 || hour_of_day < 6.0", "c"),
        known=["c1|d1", "c2|d2"],
    )
    rows = simulated.transactions.slice(1_000, 400)
    vectors = simulated.vectors[1_000:1_400]
    scores = np.linspace(0, 1, 400)
    times = rows["event_time"].cast(pa.int64()).to_numpy()
    texts = texts_of(rows)
    table = made.fired_matrix(vectors, scores, texts, times)
    assert table.any(axis=0)[[0, 2]].all()
    records = rows.drop_columns(["seq", "outcome"]).to_pylist()
    for number, record in enumerate(records):
        transaction = Transaction(**record)
        assert {name: texts[name][number] for name in TEXTS} == transaction_texts(transaction)
        names = [one.id for one in made.fired(transaction, vectors[number], scores[number])]
        assert names == [made.rules[i].id for i in np.nonzero(table[number])[0]]


def decided(amount, fraud, outcome):
    n = len(amount)
    return DecidedTransactions(
        vectors=np.array([vector(amount=a / 100) for a in amount]), scores=np.zeros(n),
        model_outcome=np.array([OUTCOMES.index(one) for one in outcome]),
        texts={name: [""] * n for name in TEXTS}, time_us=np.zeros(n, np.int64),
        fraud=np.array(fraud), amount=np.array(amount, float), customer=np.arange(n),
        scenario=["ring" if one else "genuine" for one in fraud],
    )  # fmt: skip


def test_the_back_test_measures_each_rule_on_top_of_the_others():
    made = decided([10_000, 20_000, 30_000], [False, True, True], ["approve", "approve", "decline"])
    rules = compiled(
        rule("amount >= 150", "large", "observe"),
        rule("amount >= 50", "half", "decline"),
        rule("amount >= 250", "largest", "approve"),
    )
    found = back_test(rules, made)
    # Model alone: one fraud approved, 200 + 15 EUR. With `half`: one genuine one declined, 5 EUR.
    assert (found.cost_model, found.cost_rules) == (215.0, 5.0)
    large, half, largest = found.rules
    assert (large.hits, large.frauds, large.eur_per_day, large.overlap) == (2, 2, 0.0, 1.0)
    assert half.eur_per_day == pytest.approx(-5 + 215 + 315)
    assert half.recall == {"ring": 1.0}
    assert largest.eur_per_day == 0.0  # `half` declines first
    assert half.low <= half.eur_per_day <= half.high


def test_the_back_test_reckons_by_the_costs_that_decided():
    made = decided([10_000, 20_000], [False, True], ["approve", "approve"])
    rules = compiled(rule("amount >= 50", "half", "decline"))
    dearer = back_test(rules, replace(made, costs=CostModel(opex=800.0, fee=2_500.0)))
    # Model alone: one fraud approved, 200 + 25 EUR. With `half`: one genuine one declined, 8 EUR.
    assert (dearer.cost_model, dearer.cost_rules) == (225.0, 8.0)


def test_without_the_truth_the_back_test_counts_hits_and_changed_outcomes():
    made = decided([10_000, 20_000], [False, True], ["approve", "decline"])
    rules = compiled(rule("amount >= 50", "half", "decline"))
    found = back_test(rules, replace(made, fraud=None))
    assert (found.frauds, found.outcomes["decline"]) == (None, 2)
    assert np.isnan([found.cost_model, found.cost_rules]).all()
    [half] = found.rules
    assert (half.hits, half.frauds, half.overlap, half.recall) == (2, None, 0.5, {})
    assert np.isnan([half.precision, half.eur_per_day, half.low, half.high]).all()


def test_outcomes_of_a_table_are_those_of_each_row():
    random = np.random.default_rng(1)
    actions = ["decline", "review", "approve", "observe"]
    hits, model = random.random((64, 4)) < 0.4, random.integers(0, 3, 64)
    for row, outcome in enumerate(outcomes_of(model, hits, actions)):
        taken = [one for one, hit in zip(actions, hits[row], strict=True) if hit]
        assert OUTCOMES[outcome] == combine(OUTCOMES[model[row]], taken)


def test_the_audit_finds_a_rule_that_did_not_fire_and_a_wrong_outcome(simulated):
    rules = compiled(rule("amount > 0.0", "all", "review"))
    rows = simulated.transactions.slice(0, 4).drop_columns(["outcome"])
    columns = {
        "decision_id": ["a", "b", "c", "d"], "rules": [rules.label] * 3 + ["9:gone"],
        "model_decision": ["approve"] * 4, "decision": ["review", "approve", "review", "approve"],
        "fired": [["all"], ["all"], [], []], "score": [0.1] * 4,
        "features": simulated.vectors[:4].tolist(),
        "control": pa.array([None] * 4, pa.bool_()), "propensity": pa.array([None] * 4, "f8"),
    }  # fmt: skip
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values))
    found = audit_rules(rows, {rules.label: rules})
    assert (found.decisions, found.examples, found.unknown) == (3, ["b", "c"], {"9:gone": 1})


def test_the_audit_draws_the_control_group_anew(simulated):
    rules = compiled(rule("amount < 0.0", "none", "review"))
    chances = {
        "drawn": 1.0,
        "not": 0.0,
        "hidden": 1.0,
        "extra": 0.0,
        "approved": 0.5,
        "first": None,
    }
    count = len(chances)
    rows = simulated.transactions.slice(0, count).drop_columns(["outcome"])
    columns = {
        "decision_id": list(chances), "rules": [rules.label] * count,
        "model_decision": [*["decline"] * 4, "approve", "decline"],
        "decision": ["approve", "decline", "decline", "approve", "approve", "decline"],
        "control": [True, False, False, True, False, None],
        "propensity": list(chances.values()), "fired": [[]] * count, "score": [0.1] * count,
        "features": simulated.vectors[:count].tolist(),
    }  # fmt: skip
    for name, values in columns.items():
        rows = rows.append_column(name, pa.array(values))
    found = audit_rules(rows, {rules.label: rules})
    assert (found.decisions, found.examples) == (count, ["hidden", "extra", "approved"])


def test_the_shipped_rules_compile_and_are_fifteen():
    shipped = shipped_rules()
    made = CompiledRules(shipped.rule_set, 0, shipped.values)
    made.check()
    assert len(made.rules) == 15


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rules: [", "no YAML"),
        ("[]", "valid dictionary"),
        ("rules: [{id: x}]", "when"),
        ("lists: {a: [1]}\nrules: []", "list a, entry 1: 1 is no plain text"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, text, said):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises((RuleRefused, ListRefused), match=said):
        read_rules(path)


@pytest.mark.parametrize("text", ["", "d1", "d1\n", "d1\r\nd2\r\n", "größe\nd2"])
def test_a_list_file_gives_every_line(tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text.encode())
    (tmp_path / "rules.yaml").write_text("lists: {stolen: {file: list.txt}}\nrules: []")
    assert read_rules(tmp_path / "rules.yaml").values == {"stolen": set(text.split())}


def test_the_example_of_a_rule_file_is_one(tmp_path):
    _, _, example = files.__doc__.partition("\n\n")
    (tmp_path / "trusted.txt").write_text("c1|m7\n")
    (tmp_path / "rules.yaml").write_text(textwrap.dedent(example))
    read = read_rules(tmp_path / "rules.yaml")
    CompiledRules(read.rule_set, 1, read.values).check()
    assert [one.id for one in read.rule_set.rules] == ["stolen-device"]
    assert read.values == {"stolen_devices": {"d17", "d99"}, "trusted_pairs": {"c1|m7"}}


def test_a_list_keeps_what_was_put_in_and_a_changed_content_is_refused():
    values = {f"d{n}" for n in range(60_000)}
    text = list_text("stolen", values)
    assert read_values("stolen", reference(text), text) == values
    with pytest.raises(ListRefused, match="content"):
        read_values("stolen", reference(text), text + b"d\n")


def test_the_interval_of_many_customers_needs_bounded_memory():
    rng = np.random.default_rng(1)
    saved = rng.normal(1.0, 1.0, 20_000)
    tracemalloc.start()
    total, low, high = backtest._interval(saved, np.arange(len(saved)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100e6
    # Of independent customers, the sum of squares is the variance of a Poisson bootstrap.
    spread = 1.96 * np.sqrt((saved**2).sum())
    assert total == pytest.approx(saved.sum())
    assert [low, high] == pytest.approx([total - spread, total + spread], abs=0.2 * spread)
