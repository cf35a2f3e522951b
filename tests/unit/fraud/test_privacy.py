"""Cutting a data set into banks, and the arithmetic of the federation's table.

What the banks and the coordinator run has its tests in `tests/federated`, in their environment.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from infra.local.flower_apart import join
from services.cli.main import app
from services.fraud.evaluation.federation import bank_files
from services.fraud.evaluation.federation.apart import bank_rows
from services.fraud.evaluation.federation.bank_files import BankFiles
from services.fraud.evaluation.federation.banks import (
    LATER_DAYS,
    MIN_DAYS,
    UncutData,
    assign,
    bank_sizes,
    cut,
    simulate,
)
from services.fraud.evaluation.federation.jobs import jobs
from services.fraud.evaluation.federation.plot import plot
from services.fraud.evaluation.federation.request import FederationRequest
from services.fraud.evaluation.federation.results import THRESHOLDS, Row, cost_curve, threshold
from services.fraud.evaluation.federation.summary import gap_closed, mean
from services.fraud.privacy.job import Bank, Job
from services.fraud.privacy.rows import LATER, TRAIN, VALIDATION, BadBank, Rows, check
from services.fraud.problem import CostModel
from services.fraud.simulator.scenarios import COLLUSION_RING, COMPROMISED_MERCHANT
from services.platform.settings import Settings


@pytest.fixture(scope="module")
def data() -> UncutData:
    return simulate(7, MIN_DAYS, lambda *_: None)


def rows(names: tuple[str, ...] = ("a", "b"), size: int = 300) -> Rows:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(size, len(names))).astype(np.float32)
    return Rows(names, vectors, vectors[:, 0] > 1, np.full(size, 5_000.0), np.arange(size))


def test_every_customer_has_one_bank_and_the_banks_see_unlike_fraud(data: UncutData) -> None:
    bank_of = cut(data, 4, seed=7)
    assert np.bincount(bank_of).tolist() == bank_sizes(4) == [2667, 1333, 667, 333]
    train = data.periods()[TRAIN]
    frauds = [
        np.bincount(data.scenario[train & (bank_of[data.customer] == n)], minlength=6)
        for n in range(4)
    ]
    assert frauds[1][COLLUSION_RING] == sum(of[COLLUSION_RING] for of in frauds) > 0
    assert frauds[0][COMPROMISED_MERCHANT] > 0.8 * sum(of[COMPROMISED_MERCHANT] for of in frauds)
    assert 0 < frauds[3][1:].sum() < 20 < frauds[2][1:].sum()


def test_a_cut_is_the_same_for_a_seed_and_another_for_another(data: UncutData) -> None:
    np.testing.assert_array_equal(cut(data, 4, 1), cut(data, 4, 1))
    assert (cut(data, 4, 1) != cut(data, 4, 2)).any()


def test_more_victims_than_seats_is_said() -> None:
    customers = np.arange(9)
    with pytest.raises(ValueError, match="more than bank 2 holds"):
        assign(customers, np.full(9, COLLUSION_RING), [6, 2, 1], seed=0)
    with pytest.raises(ValueError, match="more than the banks hold"):
        assign(customers, np.ones(9, dtype=int), [2, 1, 6], seed=0)


def test_periods_are_apart_and_features_are_the_banks_own(data: UncutData) -> None:
    periods = data.periods()
    assert not (periods[TRAIN] & periods[VALIDATION]).any()
    assert not (periods[VALIDATION] & periods[LATER]).any()
    assert data.day[periods[LATER]].min() == data.later_from == MIN_DAYS - LATER_DAYS
    own = cut(data, 4, 7)[data.customer] == 3
    bank, everybody = data.rows(own)[LATER], data.rows(data.everything)[LATER]
    same = everybody.select(np.isin(everybody.customer, bank.customer))
    assert len(same) == len(bank)
    merchant = bank.names.index("merchant_transactions_30d")
    amount = bank.names.index("amount")
    np.testing.assert_array_equal(bank.vectors[:, amount], same.vectors[:, amount])
    assert (bank.vectors[:, merchant] < same.vectors[:, merchant]).mean() > 0.9


def test_too_few_days_are_said() -> None:
    with pytest.raises(ValueError, match="at least 36 are needed"):
        simulate(0, 20, lambda *_: None)


def test_rows_survive_their_file(tmp_path: Path) -> None:
    before = rows()
    before.save(tmp_path / "rows.npz")
    after = Rows.load(tmp_path / "rows.npz")
    assert after.names == before.names
    np.testing.assert_array_equal(after.vectors, before.vectors)
    np.testing.assert_array_equal(after.fraud, before.fraud)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (rows(("b", "a")), "another order"),
        (rows(("a", "c")), "missing: b; unknown: c"),
        (rows(size=10), "10 rows; 200 are needed"),
        (replace(rows(), fraud=np.zeros(300, dtype=bool)), "none of its rows is a fraud"),
    ],
)
def test_a_bad_bank_is_told_why(bad: Rows, said: str) -> None:
    check(rows(), ("a", "b"))
    with pytest.raises(BadBank, match=said):
        check(bad, ("a", "b"))


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    banks = (Bank(1, tmp_path / "a"), Bank(2, tmp_path / "b", "flip"))
    job = Job("krum", "krum", banks, tmp_path / "public.npz", tmp_path / "out", 7, {"rounds": 2})
    assert Job.read(job.write()) == job


def test_summed_cost_curves_choose_the_threshold_of_the_pooled_rows() -> None:
    parts = [rows(size=n) for n in (300, 500)]
    rng = np.random.default_rng(1)
    scores = [np.clip(of.fraud * 0.3 + rng.random(len(of)) * 0.6, 0, 1) for of in parts]
    curves = [cost_curve(s, of) for s, of in zip(scores, parts, strict=True)]
    for at in (0, 150, 200, 400):
        declined = scores[0] >= THRESHOLDS[at]
        assert curves[0][at] == CostModel().total(declined, parts[0].fraud, parts[0].amount)
    chosen = threshold(np.sum(curves, axis=0))
    score, fraud = np.concatenate(scores), np.concatenate([of.fraud for of in parts])
    amount = np.concatenate([of.amount for of in parts])
    best = CostModel().total(
        score >= CostModel().best_threshold(score, fraud, amount), fraud, amount
    )
    assert best <= CostModel().total(score >= chosen, fraud, amount) <= 1.05 * best


def test_the_gap_is_that_between_alone_and_all_rows_in_one_place() -> None:
    precision = {
        "alone": 0.3, "fedavg": 0.45, "fedprox": 0.2, "central": 0.5,
        "alone_xgboost": 0.4, "bagging": 0.5, "histograms": 0.6, "central_xgboost": 0.6,
    }  # fmt: skip
    table = [Row(name, ap, ap - 0.1, 0.0, 0.0, 0.0) for name, ap in precision.items()]
    closed = gap_closed(table)
    assert closed["network"]["ap"] == pytest.approx(0.75)
    assert closed["trees"]["ap_worst_bank"] == pytest.approx(1.0)


def test_several_seeds_give_intervals(tmp_path: Path) -> None:
    of_seeds = [Row("fedavg", ap, ap, 100.0, 5.0, 1.0) for ap in (0.4, 0.5, 0.6)]
    found = mean(of_seeds)
    assert found.ap == pytest.approx(0.5)
    low, high = found.intervals["ap"]
    assert high - low == pytest.approx(2 * 4.3027 * 0.1 / np.sqrt(3), rel=1e-3)
    assert set(found.as_json()) >= {
        "name", "ap", "ap_worst_bank", "cost_per_day", "bytes_out", "seconds", "intervals",
    }  # fmt: skip
    plot([found], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_switches_add_their_rows(tmp_path: Path) -> None:
    banks = BankFiles(
        tuple(Bank(n, tmp_path) for n in (1, 2, 3, 4)), Bank(1, tmp_path), Bank(1, tmp_path),
        tmp_path / "public.npz", (), 300,
    )  # fmt: skip
    request = FederationRequest(tmp_path, secure=True, private=(1.0, 8.0), poison=3)
    found = dict(jobs(request, banks, tmp_path, 0))
    assert list(found) == [
        "alone", "fedavg", "secure", "private_1", "private_8", "noise_by_bank",
        "poisoned_fedavg", "poisoned_krum", "poisoned_trimmed", "krum", "trimmed",
        "poisoned_secure", "central",
    ]  # fmt: skip
    assert [bank.poison for bank in found["poisoned_krum"][0].banks] == ["", "", "flip", ""]
    plain = dict(jobs(replace(request, secure=False, private=(), poison=0), banks, tmp_path, 0))
    assert {"alone_xgboost", "fedprox", "bagging", "histograms", "central_features"} <= set(plain)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--poison", "bank-9"], "no 'bank-9' among bank-1"),
        (["--private", "1,x"], "is not a list of numbers"),
        (["--private", "0"], "above 0"),
        (["--seeds", "2"], "need --in-process"),
        (["--banks", "1"], "banks"),
        (["--only", "bank-5"], "no 'bank-5' among bank-1"),
    ],
)
def test_bad_input_is_said(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["federate", "fraud", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in result.output


def test_a_bank_elsewhere_has_the_rows_that_the_cut_gives_it(
    data: UncutData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_files, "simulate", lambda *_: data)
    folder = bank_rows(FederationRequest(tmp_path, days=MIN_DAYS), 3, lambda *_: None)
    expected = data.rows(cut(data, 4, 7)[data.customer] == 2)
    for name, rows in expected.items():
        np.testing.assert_array_equal(Rows.load(folder / f"{name}.npz").vectors, rows.vectors)


def test_a_part_that_waits_in_vain_says_for_what(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no ca\.pem in .*: has the other side been started"):
        join(Settings(home=tmp_path), "bank-2", {"bank": 2}, tmp_path / "meet", 0.0)
    assert (tmp_path / "meet" / "bank-2.pub").read_text().startswith("ecdsa-sha2-nistp384")
    assert (tmp_path / "federated" / "keys" / "bank-2").stat().st_mode & 0o077 == 0
