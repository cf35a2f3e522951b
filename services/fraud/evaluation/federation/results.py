"""A row of the table: what its jobs' models decide in every bank's later days."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from services.fraud.candidates.federated import Federated
from services.fraud.evaluation.federation.bank_files import BankFiles
from services.fraud.evaluation.federation.banks import LATER_DAYS
from services.fraud.features.states import TABULAR
from services.fraud.privacy import trees
from services.fraud.privacy.job import BOOSTER, TREES, Job
from services.fraud.privacy.rows import LATER, TRAIN, VALIDATION, Rows
from services.fraud.problem import CONF, CostModel
from services.platform.models.candidates import Examples
from services.platform.retraining.training import hyperparameters
from services.platform.types import Floats

Model = Callable[[Rows], Floats]

# Evenly spaced in logit: scores crowd near 0.
THRESHOLDS = 1 / (1 + np.exp(-np.linspace(-10.0, 10.0, 401)))


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


def evaluate(name: str, group: list[Job], banks: BankFiles, bytes_of: Mapping[str, float]) -> Row:
    """A row of the table from its jobs: one model a bank, or one for all."""
    has_all = group[0].banks == (banks.shared,)
    folders = banks.shared_folders if has_all else [bank.folder for bank in banks.banks]
    models = [_scorer(job) for job in group]
    models = models if len(models) > 1 else models * len(folders)
    pairs = list(zip(models, folders, strict=True))
    curves = [_cost_curve(model, folder) for model, folder in pairs]
    # One model has one threshold: the banks tell what each would cost them, and the sum decides.
    curves = curves if len(group) > 1 else [np.sum(curves, axis=0)] * len(folders)
    found = [
        _later(model, folder, threshold(curve))
        for (model, folder), curve in zip(pairs, curves, strict=True)
    ]
    precisions = [precision for precision, _ in found]
    cost = sum(cost for _, cost in found)
    reports = [job.report for job in group]
    return Row(
        name,
        ap=float(np.mean(precisions)),
        ap_worst_bank=min(precisions),
        cost_per_day=cost / 100 / LATER_DAYS,
        bytes_out=_bytes_out(group, len(folders), bytes_of),
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
    candidate = Federated(hyperparameters(CONF, Federated.name), TABULAR)
    candidate.load(job.out)
    return candidate


def _scorer(job: Job) -> Model:
    if job.kind == TREES:
        model = (job.out / BOOSTER).read_bytes()
        return lambda rows: trees.score(model, rows.vectors)
    candidate = load(job)
    return lambda rows: candidate.score(Examples(rows.vectors, rows.fraud, rows.amount))


def _cost_curve(model: Model, folder: Path) -> Floats:
    """`cost_curve` of a model in a bank's validation days."""
    rows = Rows.load(folder / f"{VALIDATION}.npz")
    return cost_curve(model(rows), rows)


def _later(model: Model, folder: Path, threshold: float) -> tuple[float, float]:
    """Average precision and cost (minor units) of a model in a bank's later days."""
    rows = Rows.load(folder / f"{LATER}.npz")
    score = model(rows)
    cost = CostModel().total(score >= threshold, rows.fraud, rows.amount)
    return float(average_precision_score(rows.fraud, score)), cost


def cost_curve(score: Floats, rows: Rows) -> Floats:
    """What declining from each of `THRESHOLDS` on would cost a bank, minor units."""
    thresholds, costs = CostModel().by_threshold(score, rows.fraud, rows.amount)
    # By falling threshold; the cost at t is that of the least threshold which is at least t.
    return costs[np.searchsorted(-thresholds, -THRESHOLDS, side="right") - 1]


def threshold(curve: Floats) -> float:
    """The threshold of least cost; of several, the highest."""
    return float(THRESHOLDS[::-1][int(np.argmin(curve[::-1]))])


def validation_cost(job: Job, banks: BankFiles) -> float:
    """Cost of a job's model in all banks' validation days at its best threshold, minor units."""
    model = _scorer(job)
    curves = [_cost_curve(model, bank.folder) for bank in banks.banks]
    return float(np.sum(curves, axis=0).min())


def with_difference(rows: list[Row], plain: Job, secure: Job) -> list[Row]:
    """Note the largest difference of a weight after one round of secure aggregation."""
    far = float(np.abs(load(plain).weights() - load(secure).weights()).max())
    return [
        replace(row, details={**row.details, "difference": far}) if row.name == "secure" else row
        for row in rows
    ]
