"""Rules on simulated days with known truth: what each earns, by scenario of fraud.

A model is trained on the first weeks, as the first champion is. Lists that the rule file leaves
empty are filled from the labels known by then, as an analyst would fill them. The rules are
measured on the days after.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from services.fraud.evaluation.simulated_data import tabular_vectors
from services.fraud.features.backfill import WARM_UP_DAYS
from services.fraud.problem import CostModel
from services.fraud.retraining.dataset import VALIDATION_DAYS
from services.fraud.retraining.training import choose_threshold, new_candidate
from services.fraud.rules.backtest import BackTest, DecidedTransactions, back_test
from services.fraud.rules.evaluation import CompiledRules
from services.fraud.rules.files import Rules
from services.fraud.rules.lists import Values
from services.fraud.rules.logged import texts_of, times_us
from services.fraud.simulator.day import DAY_US, START_US
from services.fraud.simulator.history import SimulatedDataset, simulate_days
from services.fraud.simulator.scenarios import SCENARIOS
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import Traffic
from services.platform.models.candidates import Examples
from services.platform.progress import ProgressBar
from services.platform.types import Booleans

_FIT_UNTIL = 37
_FROM = _FIT_UNTIL + VALIDATION_DAYS
DAYS = _FROM + 30
# A value with so many chargebacks, and so high a share of them, is blocked; so many undisputed
# purchases and no chargeback make a trusted one.
_BLOCKED_AT, _BLOCKED_SHARE, _TRUSTED_AT = 2, 0.5, 5
# By name of a list that a rule file may leave empty: the text it holds, and whether it is trusted.
_LISTS = {
    "stolen_devices": ("device_id", False),
    "blocked_addresses": ("ip", False),
    "blocked_merchants": ("merchant_id", False),
    "charged_back_customers": ("customer_id", False),
    "trusted_pairs": ("customer_merchant", True),
    "trusted_devices": ("customer_device", True),
}


def measure(rules: Rules, candidate: str, seeds: Sequence[int], bar: ProgressBar) -> BackTest:
    """Back-test rules on `DAYS - _FROM` simulated days of each seed, together.

    Raises:
        KeyError: no such candidate.
        ValueError: the candidate needs more than the tabular features.
    """
    results = [_of_seed(rules, candidate, seed, bar) for seed in seeds]
    compiled, made = results[0][0], _together([made for _, made, _ in results])
    fired = np.concatenate([fired for *_, fired in results])
    return back_test(compiled, made, fired=fired)


def _of_seed(
    rules: Rules, candidate: str, seed: int, bar: ProgressBar
) -> tuple[CompiledRules, DecidedTransactions, Booleans]:
    with bar(f"simulating {DAYS} days, seed {seed}") as step:
        dataset = simulate_days(Traffic(seed), DAYS, step)
    transactions = pa.concat_tables(
        [transaction_table(d, seq) for d, (seq, _) in zip(dataset.days, dataset.seqs, strict=True)]
    )
    made, known = _decide(dataset, transactions, candidate, seed, bar)
    later = times_us(transactions) >= START_US + _FROM * DAY_US
    chosen = np.nonzero(later)[0]
    tested = _select(made, chosen)
    lists = {**_known_lists(made, known), **{n: v for n, v in rules.values.items() if v}}
    compiled = CompiledRules(rules.rule_set, 0, {n: lists.get(n, set()) for n in rules.values})
    with bar(f"{len(compiled.rules)} rules on {len(tested):,} transactions") as step:
        fired = compiled.fired_matrix(
            tested.vectors, tested.scores, tested.texts, tested.time_us, step
        )
    return compiled, tested, fired


def _decide(
    dataset: SimulatedDataset, transactions: pa.Table, candidate: str, seed: int, bar: ProgressBar
) -> tuple[DecidedTransactions, Booleans]:
    """All transactions as a model decides them, and (N,) whether the label is known at `_FROM`."""
    labels = pa.concat_tables(
        [
            label_table(d, np.nonzero(s)[0], s[np.nonzero(s)[0]])
            for d, (_, s) in zip(dataset.days, dataset.seqs, strict=True)
        ]
    )
    vectors = tabular_vectors(transactions, labels)
    time = times_us(transactions)
    day = (time - START_US) // DAY_US
    fraud = np.concatenate([d.scenario > 0 for d in dataset.days])
    amount = np.concatenate([d.amount for d in dataset.days]).astype(np.float64)

    def examples(first: int, until: int) -> Examples:
        mask = (day >= first) & (day < until)
        return Examples(vectors[mask], fraud[mask], amount[mask])

    native = new_candidate(candidate)
    if type(native).groups or type(native).sets:
        raise ValueError(f"{candidate} needs a graph or carts, which are not simulated here")
    valid = examples(_FIT_UNTIL, _FROM)
    with bar(f"training {candidate}") as step:
        native.fit(examples(WARM_UP_DAYS, _FIT_UNTIL), valid, seed, step)
    scores = native.score(Examples(vectors, fraud, amount))
    # The queue has room: a slot costs nothing beside the review itself.
    outcome = CostModel(slot=0.0).outcomes(scores, choose_threshold(native, valid), amount)
    label_time = np.concatenate([d.label_time for d in dataset.days])
    made = DecidedTransactions(
        vectors=vectors,
        scores=scores,
        model_outcome=np.asarray(outcome, dtype=np.int64),
        texts=texts_of(transactions),
        time_us=time,
        fraud=fraud,
        amount=amount,
        customer=np.concatenate([d.customer for d in dataset.days]),
        scenario=[SCENARIOS[number] for d in dataset.days for number in d.scenario],
    )
    return made, label_time < START_US + _FROM * DAY_US


def _known_lists(made: DecidedTransactions, known: Booleans) -> Mapping[str, Values]:
    """Lists from the labels that are known."""
    lists = {}
    for name, (text, trusted) in _LISTS.items():
        rows = pd.DataFrame({"value": made.texts[text], "fraud": made.fraud})[known]
        by_value = rows[rows["value"] != ""].groupby("value")["fraud"].agg(["sum", "count"])
        if trusted:
            chosen = (by_value["sum"] == 0) & (by_value["count"] >= _TRUSTED_AT)
        else:
            share = by_value["sum"] / by_value["count"]
            chosen = (by_value["sum"] >= _BLOCKED_AT) & (share >= _BLOCKED_SHARE)
        lists[name] = frozenset(by_value.index[chosen])
    return lists


def _select(made: DecidedTransactions, chosen: np.ndarray) -> DecidedTransactions:
    return DecidedTransactions(
        vectors=made.vectors[chosen],
        scores=made.scores[chosen],
        model_outcome=made.model_outcome[chosen],
        texts={name: [values[i] for i in chosen] for name, values in made.texts.items()},
        time_us=made.time_us[chosen],
        fraud=None if made.fraud is None else made.fraud[chosen],
        amount=made.amount[chosen],
        customer=made.customer[chosen],
        scenario=[made.scenario[i] for i in chosen],
    )


def _together(parts: Sequence[DecidedTransactions]) -> DecidedTransactions:
    """Days of several seeds as one; each has days and customers of its own."""
    return DecidedTransactions(
        vectors=np.concatenate([part.vectors for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        model_outcome=np.concatenate([part.model_outcome for part in parts]),
        texts={},
        time_us=np.concatenate([p.time_us + i * DAYS * DAY_US for i, p in enumerate(parts)]),
        fraud=np.concatenate([part.fraud for part in parts]),
        amount=np.concatenate([part.amount for part in parts]),
        customer=np.concatenate([p.customer + i * 10_000_000 for i, p in enumerate(parts)]),
        scenario=[name for part in parts for name in part.scenario],
    )
