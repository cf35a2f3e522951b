"""What federation is worth: four unlike banks alone, together, and with all rows in one place.

Every row of the table is a `Job` on the same banks and is evaluated on every bank's later days. A
bank alone, and all rows in one place, are federations of one bank, so they train by the same code
for as long.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from scipy import stats
from sklearn.metrics import average_precision_score

from services.fraud.candidates.federated import Federated
from services.fraud.evaluation import banks as cutting
from services.fraud.features.states import TABULAR
from services.fraud.privacy import trees
from services.fraud.privacy.job import BOOSTER, NETWORK, TREES, Bank, Job
from services.fraud.privacy.rows import LATER, TRAIN, VALIDATION, Rows, concatenate
from services.fraud.problem import CONF, CostModel
from services.platform.models.candidates import Examples
from services.platform.progress import ProgressBar
from services.platform.retraining.training import hyperparameters
from services.platform.types import Floats

CANDIDATE = Federated.name
TABLE = "table.json"
APP = Path(__file__).parents[1] / "privacy" / "app"
IN_PROCESS = "services.fraud.privacy.in_process"
# The rows that the banks may see for the normalisation: of another seed's world.
_PUBLIC_SEED_OFFSET, _PUBLIC_ROWS = 1_000, 20_000
_PHASE = re.compile(r"phase (\d+) of (\d+)")
# Evenly spaced in logit: scores crowd near 0.
THRESHOLDS = 1 / (1 + np.exp(-np.linspace(-10.0, 10.0, 401)))

OnLine = Callable[[str], None]
# Rows of the table by name, each with its jobs.
Groups = list[tuple[str, list[Job]]]
# Runs a module of the banks' environment: (module, arguments, on_line).
RunModule = Callable[[str, Sequence[str], OnLine], None]


class RunningFederation(Protocol):
    """A SuperLink and its SuperNodes."""

    def run(self, app: Path, config: Mapping[str, Any], on_line: OnLine) -> int:
        """Run an app to its end. Returns the bytes received from the banks."""


# Starts one, given the configuration of each SuperNode by name.
StartFederation = Callable[
    [Mapping[str, Mapping[str, Any]]], AbstractContextManager[RunningFederation]
]


@dataclass(frozen=True)
class FederationRequest:
    """What to run.

    Attributes:
        home: Folder for the banks' rows, the models and the table.
        banks: How many.
        rounds: Of training.
        seeds: Of the worlds.
        days: Days of each world.
        in_process: Everything in one process; else as SuperLink and SuperNodes.
        secure: Compare secure aggregation.
        private: Epsilons to compare.
        poison: Number of the bank that falsifies its updates; 0 for none.
    """

    home: Path
    banks: int = 4
    rounds: int = 8
    seeds: tuple[int, ...] = (7,)
    days: int = cutting.DAYS
    in_process: bool = False
    secure: bool = False
    private: tuple[float, ...] = ()
    poison: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether no switch is given."""
        return not (self.secure or self.private or self.poison)


@dataclass(frozen=True)
class Row:
    """One row of the table: means over the seeds, with 95 % intervals if there are several.

    Attributes:
        ap: Mean of the banks' average precisions on their later days.
        ap_worst_bank: The least of them.
        cost_per_day: Of all banks' decisions in the later days, EUR.
        bytes_out: Of messages from one bank, mean over the banks.
        seconds: Of training.
        intervals: By column, (low, high).
        details: Further figures: `epsilon`, `difference` from plain aggregation, `errors`.
    """

    name: str
    ap: float
    ap_worst_bank: float
    cost_per_day: float
    bytes_out: float
    seconds: float
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For machines: the figures, and intervals and details where there are any."""
        whole = asdict(self)
        details = whole.pop("details")
        if not whole["intervals"]:
            whole.pop("intervals")
        return {**whole, **details}


@dataclass(frozen=True)
class Comparison:
    """The table, and the best network that the banks trained together.

    Attributes:
        rows: The table.
        closed: See `_gap_closed`; empty with a switch.
        best: Folder of the best network's job, by cost on the banks' validation days.
    """

    rows: list[Row]
    closed: dict[str, dict[str, float]]
    best: Path

    def as_json(self) -> dict[str, Any]:
        return {"rows": [row.as_json() for row in self.rows], "closed": self.closed}


def compare(
    request: FederationRequest, bar: ProgressBar, run_module: RunModule, start: StartFederation
) -> Comparison:
    """Cut each seed's world into banks, run all jobs, and evaluate them.

    Raises:
        ValueError: the world cannot be cut into such banks.
        RuntimeError: a run failed.
    """
    of_seeds = [_one_seed(request, seed, bar, run_module, start) for seed in request.seeds]
    rows = [_mean(list(of_name)) for of_name in zip(*(rows for rows, _ in of_seeds), strict=True)]
    closed = _gap_closed(rows) if request.is_plain else {}
    comparison = Comparison(rows, closed, of_seeds[0][1])
    name = TABLE if request.is_plain else "switches.json"
    (request.home / name).write_text(json.dumps(comparison.as_json(), indent=1))
    return comparison


@dataclass(frozen=True)
class _Banks:
    """One seed's banks on disk, and in memory for the evaluation.

    Attributes:
        banks: The banks.
        pooled: As one bank: all their rows, each with its own bank's features.
        shared: As one bank: all rows, with features aggregated over all of them.
        public: File with rows that all may see.
        rows: By bank, the rows of each period.
        shared_rows: By bank, the same rows with the features of `shared`.
    """

    banks: tuple[Bank, ...]
    pooled: Bank
    shared: Bank
    public: Path
    rows: list[dict[str, Rows]]
    shared_rows: list[dict[str, Rows]]


def _one_seed(
    request: FederationRequest, seed: int, bar: ProgressBar, run_module: RunModule,
    start: StartFederation,
) -> tuple[list[Row], Path]:  # fmt: skip
    folder = request.home / f"seed-{seed}"
    with bar(f"cutting a world into {request.banks} banks") as step:
        banks = prepare(folder / "banks", request, seed, step)
    groups = jobs(request, banks, folder, seed)
    one_round = _one_round(groups, folder) if request.secure else []
    todo = [job for _, group in groups for job in group] + one_round
    bytes_of = _run(todo, request, bar, run_module, start)
    rows = [_evaluate(name, group, banks, bytes_of) for name, group in groups]
    if one_round:
        rows = _with_difference(rows, *one_round)
    trained = [g[0] for name, g in groups if name in ("fedavg", "fedprox")]
    return rows, min(trained, key=lambda job: _validation_cost(job, banks)).out


def prepare(
    folder: Path, request: FederationRequest, seed: int, step: Callable[[int, int], None]
) -> _Banks:
    """Simulate a world, cut it, and write each bank's rows into a folder of its own."""
    world = cutting.simulate(seed, request.days, step)
    bank_of = cutting.cut(world, request.banks, seed)
    at = bank_of[world.customer]
    rows = [world.rows(at == number) for number in range(request.banks)]
    everything = world.rows(world.everything)
    shared_rows = [
        {name: of.select(bank_of[of.customer] == n) for name, of in everything.items()}
        for n in range(request.banks)
    ]
    banks = tuple(Bank(n, folder / f"bank-{n}") for n in range(1, request.banks + 1))
    pooled, shared = Bank(1, folder / "pooled"), Bank(1, folder / "shared")
    for bank, of in zip(banks, rows, strict=True):
        of[TRAIN].save(bank.folder / f"{TRAIN}.npz")
    concatenate([of[TRAIN] for of in rows]).save(pooled.folder / f"{TRAIN}.npz")
    everything[TRAIN].save(shared.folder / f"{TRAIN}.npz")
    public = folder / "public.npz"
    _public_rows(seed).save(public)
    return _Banks(banks, pooled, shared, public, rows, shared_rows)


def _public_rows(seed: int) -> Rows:
    """Rows of another world, which stand for a sample that the banks agreed to publish."""
    seed += _PUBLIC_SEED_OFFSET
    world = cutting.simulate(seed, cutting.MIN_DAYS, lambda *_: None)
    sample = world.rows(world.everything)[LATER]
    chosen = np.zeros(len(sample), dtype=bool)
    chosen[:: max(len(sample) // _PUBLIC_ROWS, 1)] = True
    return sample.select(chosen)


def jobs(request: FederationRequest, banks: _Banks, folder: Path, seed: int) -> Groups:
    """The rows of the table by name, each with its jobs: one, or one for each bank alone."""
    config = {
        **hyperparameters(CONF, CANDIDATE),
        "rounds": request.rounds,
        "epsilon": 0.0,
        "secure": False,
        # Secure aggregation needs a bound of the weights; the banks' sizes are public.
        "max-rows": max(len(of[TRAIN]) for of in banks.rows),
    }

    def job(name: str, strategy: str, taking_part: Sequence[Bank], **more: Any) -> Job:
        return Job(
            name, strategy, tuple(taking_part), banks.public, folder / "runs" / name, seed,
            {**config, **more},
        )  # fmt: skip

    def alone(name: str, strategy: str) -> tuple[str, list[Job]]:
        return name, [job(f"{name}-{b.number}", strategy, [b]) for b in banks.banks]

    def one(
        name: str, strategy: str, taking_part: Sequence[Bank] = banks.banks, **more: Any
    ) -> Any:
        return name, [job(name, strategy, taking_part, **more)]

    network = [one("fedavg", "fedavg")]
    if request.is_plain:
        return [
            alone("alone", "fedavg"),
            alone("alone_xgboost", "bagging"),
            *network,
            one("fedprox", "fedprox"),
            one("bagging", "bagging"),
            one("histograms", "histograms"),
            one("central", "fedavg", [banks.pooled]),
            one("central_xgboost", "bagging", [banks.pooled]),
            one("central_features", "bagging", [banks.shared]),
        ]
    if request.secure:
        network.append(one("secure", "fedavg", secure=True))
    network += [one(f"private_{e:g}", "fedavg", epsilon=e) for e in request.private]
    if request.private:
        network.append(one("noise_by_bank", "bank_noise"))
    if request.poison:
        poisoned = [
            replace(b, poison="flip" if b.number == request.poison else "") for b in banks.banks
        ]
        network += [one(f"poisoned_{s}", s, poisoned) for s in ("fedavg", "krum", "trimmed")]
        network += [one("krum", "krum"), one("trimmed", "trimmed")]
        if request.secure:
            network.append(one("poisoned_secure", "fedavg", poisoned, secure=True))
    return [alone("alone", "fedavg"), *network, one("central", "fedavg", [banks.pooled])]


def _run(
    todo: list[Job], request: FederationRequest, bar: ProgressBar, run_module: RunModule,
    start: StartFederation,
) -> dict[str, float]:  # fmt: skip
    """Run jobs; those of several banks as processes, unless everything is in one.

    Returns:
        By job's name, the bytes that left a bank, where a SuperLink counted them.
    """

    def is_local(job: Job) -> bool:
        return request.in_process or len(job.banks) == 1 or job.strategy == "histograms"

    for job in filter(is_local, todo):
        with bar(job.name) as step:
            run_module(IN_PROCESS, [str(job.write())], _progress(step))
    counted: dict[str, float] = {}
    remote = [job for job in todo if not is_local(job)]
    for taking_part, group in groupby(remote, key=lambda job: job.banks):
        nodes = {
            f"bank-{b.number}": {
                "bank": b.number,
                "data": str(b.folder.resolve()),
                "poison": b.poison,
            }
            for b in taking_part
        }
        with start(nodes) as federation:
            for job in group:
                with bar(job.name) as step:
                    config = {"job": str(job.write().resolve())}
                    counted[job.name] = federation.run(APP, config, _progress(step)) / len(nodes)
    return counted


def _progress(step: Callable[[int, int], None]) -> OnLine:
    def read(line: str) -> None:
        if found := _PHASE.search(line):
            step(int(found[1]), int(found[2]))

    return read


def _evaluate(name: str, group: list[Job], banks: _Banks, bytes_of: Mapping[str, float]) -> Row:
    """A row of the table from its jobs: one model a bank, or one for all."""
    rows = banks.shared_rows if group[0].banks == (banks.shared,) else banks.rows
    models = [_scorer(job) for job in group]
    models = models if len(models) > 1 else models * len(rows)
    pairs = list(zip(models, rows, strict=True))
    curves = [_cost_curve(model(of[VALIDATION]), of[VALIDATION]) for model, of in pairs]
    # One model has one threshold: the banks tell what each would cost them, and the sum decides.
    curves = curves if len(group) > 1 else [np.sum(curves, axis=0)] * len(rows)
    scores = [model(of[LATER]) for model, of in pairs]
    precisions = [
        float(average_precision_score(of[LATER].fraud, score))
        for score, (_, of) in zip(scores, pairs, strict=True)
    ]
    cost = sum(
        CostModel().total(score >= _threshold(curve), of[LATER].fraud, of[LATER].amount)
        for score, curve, (_, of) in zip(scores, curves, pairs, strict=True)
    )
    reports = [job.report for job in group]
    return Row(
        name,
        ap=float(np.mean(precisions)),
        ap_worst_bank=min(precisions),
        cost_per_day=cost / 100 / cutting.LATER_DAYS,
        bytes_out=_bytes_out(group, len(rows), bytes_of),
        seconds=sum(report["seconds"] for report in reports),
        details=_details(reports),
    )


def _bytes_out(group: list[Job], banks: int, bytes_of: Mapping[str, float]) -> float:
    """Bytes that left a bank, mean over the banks."""
    job = group[0]
    if len(group) > 1:  # each bank alone
        return 0.0
    if len(job.banks) == 1:  # every row
        return (job.banks[0].folder / f"{TRAIN}.npz").stat().st_size / banks
    return float(bytes_of.get(job.name, job.report["bytes_out"]))


def _details(reports: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [error for report in reports for error in report["errors"]]
    epsilon = [e for report in reports for e in report.get("epsilon", {}).values()]
    return {
        **({"errors": errors} if errors else {}),
        **({"epsilon": max(epsilon)} if epsilon else {}),
    }


def load(job: Job) -> Federated:
    """The network that a job trained, as a candidate."""
    candidate = Federated(hyperparameters(CONF, CANDIDATE), TABULAR)
    candidate.load(job.out)
    return candidate


def _scorer(job: Job) -> Callable[[Rows], Floats]:
    if job.kind == TREES:
        model = (job.out / BOOSTER).read_bytes()
        return lambda rows: trees.score(model, rows.vectors)
    candidate = load(job)
    return lambda rows: candidate.score(Examples(rows.vectors, rows.fraud, rows.amount))


def _cost_curve(score: Floats, rows: Rows) -> Floats:
    """What declining from each of `THRESHOLDS` on would cost a bank, minor units."""
    thresholds, costs = CostModel().by_threshold(score, rows.fraud, rows.amount)
    # By falling threshold; the cost at t is that of the least threshold which is at least t.
    return costs[np.searchsorted(-thresholds, -THRESHOLDS, side="right") - 1]


def _threshold(curve: Floats) -> float:
    """The threshold of least cost; of several, the highest."""
    return float(THRESHOLDS[::-1][int(np.argmin(curve[::-1]))])


def _validation_cost(job: Job, banks: _Banks) -> float:
    model = _scorer(job)
    curves = [_cost_curve(model(of[VALIDATION]), of[VALIDATION]) for of in banks.rows]
    return float(np.sum(curves, axis=0).min())


def _one_round(groups: Groups, folder: Path) -> list[Job]:
    """Plain and secure aggregation of one round: later ones amplify any rounding."""
    chosen = [group[0] for name, group in groups if name in ("fedavg", "secure")]
    return [
        replace(
            job, name=f"{job.name}_one_round", out=folder / "runs" / f"{job.name}_one_round",
            config={**job.config, "rounds": 1},
        )
        for job in chosen
    ]  # fmt: skip


def _with_difference(rows: list[Row], plain: Job, secure: Job) -> list[Row]:
    """Note the largest difference of a weight after one round of secure aggregation."""
    far = float(np.abs(load(plain).weights() - load(secure).weights()).max())
    return [
        replace(row, details={**row.details, "difference": far}) if row.name == "secure" else row
        for row in rows
    ]


def _mean(of_seeds: list[Row]) -> Row:
    """The mean of a row over the seeds, with Student's 95 % intervals."""
    columns = ("ap", "ap_worst_bank", "cost_per_day", "bytes_out", "seconds")
    values = {name: np.array([getattr(row, name) for row in of_seeds]) for name in columns}
    means = {name: float(of.mean()) for name, of in values.items()}
    first = of_seeds[0]
    if len(of_seeds) == 1:
        return first
    half = {
        name: float(stats.t.ppf(0.975, len(of) - 1) * of.std(ddof=1) / np.sqrt(len(of)))
        for name, of in values.items()
    }
    intervals = {n: (means[n] - half[n], means[n] + half[n]) for n in columns[:3]}
    return Row(first.name, **means, intervals=intervals, details=first.details)


def _gap_closed(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The share of the gap between alone and all rows in one place that the best row closes.

    Returns:
        By kind of model, and by column.
    """
    row_of = {row.name: row for row in rows}
    return {
        kind: {
            column: _share(column, row_of[alone], [row_of[n] for n in federated], row_of[central])
            for column in ("ap", "ap_worst_bank")
        }
        for kind, alone, federated, central in (
            (NETWORK, "alone", ("fedavg", "fedprox"), "central"),
            (TREES, "alone_xgboost", ("bagging", "histograms"), "central_xgboost"),
        )
    }


def _share(column: str, alone: Row, federated: Sequence[Row], central: Row) -> float:
    low, high = getattr(alone, column), getattr(central, column)
    return (max(getattr(row, column) for row in federated) - low) / max(high - low, 1e-9)
