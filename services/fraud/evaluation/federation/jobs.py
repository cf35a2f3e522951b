"""The rows of the table, each as the jobs that it takes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.fraud.candidates.federated import Federated
from services.fraud.evaluation.federation.bank_files import BankFiles
from services.fraud.evaluation.federation.request import FederationRequest
from services.fraud.privacy.job import Bank, Job
from services.fraud.problem import CONF
from services.platform.retraining.training import hyperparameters

# Rows of the table by name, each with its jobs.
Groups = list[tuple[str, list[Job]]]


def configuration(request: FederationRequest) -> dict[str, Any]:
    """What the banks receive with each round, without any switch."""
    return {
        **hyperparameters(CONF, Federated.name),
        "rounds": request.rounds,
        "epsilon": 0.0,
        "secure": False,
    }


def jobs(request: FederationRequest, banks: BankFiles, folder: Path, seed: int) -> Groups:
    """The rows of the table by name, each with its jobs: one, or one for each bank alone."""
    # Secure aggregation needs a bound of the weights; the banks' sizes are public.
    config = {**configuration(request), "max-rows": banks.largest}

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


def one_round(groups: Groups, folder: Path) -> list[Job]:
    """Plain and secure aggregation of one round: later ones amplify any rounding."""
    chosen = [group[0] for name, group in groups if name in ("fedavg", "secure")]
    return [
        replace(
            job, name=f"{job.name}_one_round", out=folder / "runs" / f"{job.name}_one_round",
            config={**job.config, "rounds": 1},
        )
        for job in chosen
    ]  # fmt: skip
