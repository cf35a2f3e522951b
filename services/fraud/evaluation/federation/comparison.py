"""The whole comparison: cut, run, evaluate, keep the table."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.fraud.evaluation.federation.bank_files import prepare
from services.fraud.evaluation.federation.jobs import jobs, one_round
from services.fraud.evaluation.federation.request import FederationRequest
from services.fraud.evaluation.federation.results import (
    Row,
    evaluate,
    validation_cost,
    with_difference,
)
from services.fraud.evaluation.federation.running import RunModule, StartFederation, run
from services.fraud.evaluation.federation.summary import gap_closed, mean
from services.platform.progress import ProgressBar

TABLE = "table.json"


@dataclass(frozen=True)
class Comparison:
    """The table, and the best network that the banks trained together.

    Attributes:
        rows: The table.
        closed: See `gap_closed`; empty with a switch.
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
    """Cut each seed's data set into banks, run all jobs, and evaluate them.

    Raises:
        ValueError: the data set cannot be cut into such banks.
        RuntimeError: a run failed.
    """
    of_seeds = [_one_seed(request, seed, bar, run_module, start) for seed in request.seeds]
    rows = [mean(list(of_name)) for of_name in zip(*(rows for rows, _ in of_seeds), strict=True)]
    closed = gap_closed(rows) if request.is_plain else {}
    comparison = Comparison(rows, closed, of_seeds[0][1])
    name = TABLE if request.is_plain else "switches.json"
    (request.home / name).write_text(json.dumps(comparison.as_json(), indent=1))
    return comparison


def _one_seed(
    request: FederationRequest, seed: int, bar: ProgressBar, run_module: RunModule,
    start: StartFederation,
) -> tuple[list[Row], Path]:  # fmt: skip
    folder = request.home / f"seed-{seed}"
    with bar(f"cutting a data set into {request.banks} banks") as step:
        banks = prepare(folder / "banks", request, seed, step)
    groups = jobs(request, banks, folder, seed)
    of_one_round = one_round(groups, folder) if request.secure else []
    todo = [job for _, group in groups for job in group] + of_one_round
    bytes_of = run(todo, request, bar, run_module, start)
    rows = [evaluate(name, group, banks, bytes_of) for name, group in groups]
    if of_one_round:
        rows = with_difference(rows, *of_one_round)
    trained = [g[0] for name, g in groups if name in ("fedavg", "fedprox")]
    return rows, min(trained, key=lambda job: validation_cost(job, banks)).out
