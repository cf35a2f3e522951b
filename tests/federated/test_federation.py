"""The banks' and the coordinator's code, in one process, on small made-up banks."""

import copy
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="runs in the banks' environment: make test-federated")
torch = pytest.importorskip("torch")

from flwr.app import Context, RecordDict  # noqa: E402
from flwr.common.constant import SUPERLINK_NODE_ID  # noqa: E402

from services.fraud.privacy import server_app, trees  # noqa: E402
from services.fraud.privacy.in_process import InProcessGrid, run  # noqa: E402
from services.fraud.privacy.job import BOOSTER, WEIGHTS, Bank, Job  # noqa: E402
from services.fraud.privacy.local_training import set_weights, train, weights  # noqa: E402
from services.fraud.privacy.model import new_network  # noqa: E402
from services.fraud.privacy.private_training import PrivacyBudget  # noqa: E402
from services.fraud.privacy.rows import TRAIN, Rows  # noqa: E402

NAMES = ("a", "b", "c", "d")
CONFIG: dict[str, Any] = {
    "hidden": 8, "batch": 64, "rate": 0.01, "rate-falls-to": 1.0, "decay": 0.0, "rounds": 2,
    "local-epochs": 1, "fedprox-mu": 0.1, "epsilon": 0.0, "secure": False, "wait": 0.0,
    "round-timeout": 10.0, "xgb-eta": 0.4, "xgb-trees-per-round": 3, "xgb-max-depth": 3,
    "sample-rate": 0.5, "steps": 2, "clip": 0.1, "private-rate": 0.01, "bank-noise": 1.0,
    "bank-clip": 1.0, "max-rows": 800,
}  # fmt: skip
SIZES = (800, 400, 300, 250)


def made_up(size: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    vectors = np.round(rng.normal(size=(size, len(NAMES))), 1).astype(np.float32)
    fraud = vectors[:, 0] + vectors[:, 1] + rng.normal(0, 0.5, size) > 2
    return Rows(NAMES, vectors, fraud, np.full(size, 1_000.0), rng.integers(0, 50, size))


@pytest.fixture
def banks(tmp_path: Path) -> tuple[Bank, ...]:
    made_up(500, 99).save(tmp_path / "public.npz")
    for number, size in enumerate(SIZES, start=1):
        made_up(size, number).save(tmp_path / f"bank-{number}" / f"{TRAIN}.npz")
    return tuple(Bank(n, tmp_path / f"bank-{n}") for n in range(1, len(SIZES) + 1))


def job(banks: tuple[Bank, ...], strategy: str, name: str = "", **config: Any) -> Job:
    folder = banks[0].folder.parent
    out = folder / "runs" / (name or strategy)
    return Job(out.name, strategy, banks, folder / "public.npz", out, 3, {**CONFIG, **config})


def trained(job: Job) -> dict[str, Any]:
    run(job)
    state: dict[str, Any] = torch.load(job.out / WEIGHTS, weights_only=True)
    return state


def flat(state: dict[str, Any]) -> np.ndarray:
    return np.concatenate([v.numpy().ravel() for k, v in state.items() if "together" in k])


def updates(job: Job) -> list[np.ndarray]:
    """What each bank's weights are after one round, by its own training."""
    start = new_network(Rows.load(job.public), int(job.config["hidden"]), job.seed)
    out = []
    for bank in job.banks:
        net = copy.deepcopy(start)
        rows = Rows.load(bank.folder / f"{TRAIN}.npz")
        train(net, rows, {**job.config, "server-round": 1}, job.seed * 10_000 + 100 + bank.number)
        out.append(np.concatenate([w.ravel() for w in weights(net)]))
    return out


def average_precision(state: dict[str, Any]) -> float:
    """On rows of no bank."""
    rows = made_up(3_000, 77)
    net = new_network(rows, 8, 0)
    net.load_state_dict(state)
    with torch.no_grad():
        score = net.eval()(torch.from_numpy(rows.vectors)).numpy()
    hits = rows.fraud[np.argsort(-score)]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def test_fedavg_is_the_mean_weighted_by_rows(banks: tuple[Bank, ...]) -> None:
    one = job(banks, "fedavg", rounds=1)
    expected = np.average(updates(one), axis=0, weights=SIZES)
    np.testing.assert_allclose(flat(trained(one)), expected, atol=1e-6)


def test_trimmed_mean_leaves_out_the_least_and_the_greatest(banks: tuple[Bank, ...]) -> None:
    one = job(banks, "trimmed", rounds=1)
    expected = np.sort(updates(one), axis=0)[1:-1].mean(axis=0)
    np.testing.assert_allclose(flat(trained(one)), expected, atol=1e-6)


def test_krum_takes_the_update_nearest_to_another(banks: tuple[Bank, ...]) -> None:
    one = job(banks, "krum", rounds=1)
    every = np.array(updates(one))
    distance = ((every[:, None] - every[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.min(axis=1)
    chosen = np.abs(every - flat(trained(one))).max(axis=1).argmin()
    np.testing.assert_allclose(flat(trained(one)), every[chosen], atol=1e-6)
    # Of four banks with one dishonest, only the nearest counts: the nearest two are a tie.
    assert nearest[chosen] == pytest.approx(nearest.min(), rel=1e-3)


def test_fedprox_stays_nearer_to_where_it_began(banks: tuple[Bank, ...]) -> None:
    free, held = job(banks, "fedavg"), job(banks, "fedprox", **{"fedprox-mu": 10.0})
    start = new_network(Rows.load(free.public), 8, free.seed).state_dict()
    far, near = (np.linalg.norm(flat(trained(j)) - flat(start)) for j in (free, held))
    assert near < 0.7 * far


def test_a_seed_gives_the_same_model_whoever_answers_first(banks: tuple[Bank, ...]) -> None:
    one = job(banks, "fedavg")
    np.testing.assert_array_equal(
        flat(trained(one)), flat(trained(replace(one, banks=banks[::-1])))
    )


def test_secure_sum_is_the_plain_one(banks: tuple[Bank, ...]) -> None:
    plain, secure = trained(job(banks, "fedavg")), job(banks, "fedavg", "secure", secure=True)
    assert np.abs(flat(plain) - flat(trained(secure))).max() < 1e-3
    assert secure.report["bytes_out"] > 0


def test_the_server_does_not_see_a_banks_update(banks: tuple[Bank, ...]) -> None:
    seen: list[np.ndarray] = []

    class Watching(InProcessGrid):
        def _deliver(self, message: Any) -> Any:
            reply = super()._deliver(message)
            assert not any(len(r) for r in reply.content.array_records.values())
            for record in reply.content.config_records.values():
                if masked := record.get("masked_params"):
                    arrays = [np.load(io.BytesIO(part)).ravel() for part in masked[1:]]
                    seen.append(np.concatenate(arrays))
            return reply

    one = job(banks, "fedavg", secure=True, rounds=1)
    one.out.mkdir(parents=True)
    context = Context(1, SUPERLINK_NODE_ID, {}, RecordDict(), {})
    server_app.run(Watching(banks, one.seed), context, one)
    assert len(seen) == len(banks)
    for masked, update in zip(seen, updates(one), strict=True):
        # Uniform over the modulus, and unrelated to what the bank learned.
        assert abs(masked.mean() / 2**32 - 0.5) < 0.1
        assert abs(np.corrcoef(masked, update)[0, 1]) < 0.25


def test_bagging_keeps_every_banks_trees(banks: tuple[Bank, ...]) -> None:
    import xgboost as xgb

    one = job(banks, "bagging")
    run(one)
    model = (one.out / BOOSTER).read_bytes()
    booster = xgb.Booster(model_file=bytearray(model))
    assert len(booster.get_dump()) == 2 * len(banks) * CONFIG["xgb-trees-per-round"]
    rows = made_up(500, 5)
    score = trees.score(model, rows.vectors)
    assert score[rows.fraud].mean() > 2 * score[~rows.fraud].mean()


def test_summed_histograms_are_the_model_of_the_pooled_rows(banks: tuple[Bank, ...]) -> None:
    import xgboost as xgb

    one = job(banks, "histograms")
    run(one)
    rows = [Rows.load(bank.folder / f"{TRAIN}.npz") for bank in banks]
    pooled = xgb.DMatrix(
        np.concatenate([r.vectors for r in rows]), label=np.concatenate([r.fraud for r in rows])
    )
    alone = xgb.train(
        {"objective": "binary:logistic", "tree_method": "hist", "base_score": 0.5, "eta": 0.4,
         "max_depth": 3}, pooled, 6,
    )  # fmt: skip
    later = made_up(500, 5)
    np.testing.assert_allclose(
        trees.score((one.out / BOOSTER).read_bytes(), later.vectors),
        alone.predict(xgb.DMatrix(later.vectors)), atol=1e-4,
    )  # fmt: skip


def test_the_accountant_agrees_with_the_published_figure() -> None:
    """Abadi et al. 2016, section 1: epsilon 1.26 at q 0.01, sigma 4, 10,000 steps, delta 1e-5.

    By their conversion; the later and tighter one that is used here spends less.
    """
    from opacus.accountants.analysis.rdp import compute_rdp

    orders = np.arange(2, 64)
    rdp = compute_rdp(q=0.01, noise_multiplier=4.0, steps=10_000, orders=orders)
    assert (rdp + np.log(1e5) / (orders - 1)).min() == pytest.approx(1.26, abs=0.01)
    budget = PrivacyBudget(1.26, 0.01, 100, 100)
    assert 3.0 < budget.noise < 4.0
    assert budget.spent(100) == pytest.approx(1.26, abs=0.02)
    assert budget.spent(50) < budget.spent(100)


def test_a_private_run_reports_the_epsilon_it_spent(banks: tuple[Bank, ...]) -> None:
    one = job(banks, "fedavg", "private", epsilon=4.0)
    trained(one)
    assert set(one.report["epsilon"]) == {"1", "2", "3", "4"}
    assert all(3.5 < spent <= 4.0 for spent in one.report["epsilon"].values())


def test_the_coordinator_cannot_compute_a_banks_noise(banks: tuple[Bank, ...]) -> None:
    """Only in one process do noise and sampling follow from a seed; elsewhere a bank draws it."""

    class Apart(InProcessGrid):
        def __init__(self) -> None:
            super().__init__(banks, 3)
            for context in self._contexts.values():
                del context.node_config["seed"]

    def update(name: str, grid: InProcessGrid) -> np.ndarray:
        one = job(banks, "fedavg", name, epsilon=4.0, rounds=1)
        one.out.mkdir(parents=True)
        context = Context(1, SUPERLINK_NODE_ID, {}, RecordDict(), {})
        server_app.run(grid, context, one)
        return flat(torch.load(one.out / WEIGHTS, weights_only=True))

    np.testing.assert_array_equal(
        update("first", InProcessGrid(banks, 3)), update("second", InProcessGrid(banks, 3))
    )
    assert np.abs(update("third", Apart()) - update("fourth", Apart())).max() > 1e-3


def test_noise_is_gaussian_of_the_clip_times_the_multiplier() -> None:
    from opacus import GradSampleModule
    from torch import nn

    from services.fraud.privacy.private_training import _Optimizer

    net = GradSampleModule(nn.Linear(200, 100, bias=False), loss_reduction="sum")
    optimizer = _Optimizer(
        np.random.default_rng(1), torch.optim.SGD(net.parameters(), lr=1.0), noise_multiplier=3.0,
        max_grad_norm=0.1, expected_batch_size=1, loss_reduction="sum",
    )  # fmt: skip
    before = net._module.weight.detach().clone()
    (net(torch.zeros(5, 200)).sum() * 0.0).backward()
    optimizer.step()
    moved = (net._module.weight.detach() - before).numpy().ravel()
    assert moved.std() == pytest.approx(0.3, rel=0.03)
    assert abs(moved.mean()) < 0.01


def test_one_customer_moves_a_private_step_by_at_most_the_clip() -> None:
    """The gradient of all of a customer's rows together is one unit, whatever their number."""
    from opacus import GradSampleModule
    from torch import nn

    net = GradSampleModule(nn.Linear(4, 1), loss_reduction="sum")
    rows = torch.randn(5, 32, 4)
    net(rows).squeeze(2).mean(dim=1).sum().backward()
    assert net._module.weight.grad_sample.shape == (5, 1, 4)


def test_a_poisoned_bank_ruins_the_mean_and_not_krum(banks: tuple[Bank, ...]) -> None:
    poisoned = tuple(replace(b, poison="flip" if b.number == 1 else "") for b in banks)
    more = {"rounds": 5, "local-epochs": 4}
    honest = average_precision(trained(job(banks, "fedavg", "honest", **more)))
    ruined = average_precision(trained(job(poisoned, "fedavg", "ruined", **more)))
    krum = average_precision(trained(job(poisoned, "krum", **more)))
    assert honest > 0.6
    assert ruined < 0.5 * honest
    assert krum > 0.85 * honest


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: replace(r, names=("a", "b", "c", "x")), "missing: d; unknown: x"),
        (lambda r: replace(r, fraud=np.zeros(len(r), dtype=bool)), "none of its rows is a fraud"),
        (lambda r: r.select(np.arange(len(r)) < 10), "10 rows; 200 are needed"),
    ],
)
def test_a_bad_bank_spoils_no_round(banks: tuple[Bank, ...], spoil: Any, said: str) -> None:
    path = banks[3].folder / f"{TRAIN}.npz"
    spoil(Rows.load(path)).save(path)
    one = job(banks, "fedavg")
    together = trained(job(banks[:3], "fedavg", "without"))
    np.testing.assert_allclose(flat(trained(one)), flat(together), atol=1e-6)
    assert [phase["banks"] for phase in one.report["phases"]] == [[1, 2, 3], [1, 2, 3]]
    assert any(said in error and "bank-4" in error for error in one.report["errors"])


@pytest.mark.parametrize(
    ("content", "said"), [(b"no archive", "has no rows that can be read"), (None, "No such file")]
)
def test_a_file_that_cannot_be_read_spoils_no_round(
    banks: tuple[Bank, ...], content: bytes | None, said: str
) -> None:
    path = banks[3].folder / f"{TRAIN}.npz"
    path.unlink()
    if content:
        path.write_bytes(content)
    one = job(banks, "bagging")
    run(one)
    assert [phase["banks"] for phase in one.report["phases"]] == [[1, 2, 3], [1, 2, 3]]
    assert any(said in error and "bank-4" in error for error in one.report["errors"])


def test_no_usable_bank_is_said(banks: tuple[Bank, ...]) -> None:
    path = banks[0].folder / f"{TRAIN}.npz"
    Rows.load(path).select(np.arange(SIZES[0]) < 10).save(path)
    with pytest.raises(RuntimeError, match=r"no bank's update could be used.*bank-1: 10 rows"):
        run(job(banks[:1], "fedavg"))


def test_weights_travel_without_loss(banks: tuple[Bank, ...]) -> None:
    net, other = (new_network(made_up(100, 1), 8, seed) for seed in (1, 2))
    set_weights(other, weights(net))
    assert all(np.array_equal(a, b) for a, b in zip(weights(net), weights(other), strict=True))
