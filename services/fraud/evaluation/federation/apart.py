"""The federation whose banks are elsewhere: each bank cuts its own rows, the coordinator has none.

In the simulation a bank gets its rows by simulating the whole data set and keeping its own rows.
"""

from collections.abc import Callable
from pathlib import Path

from services.fraud.evaluation.federation.bank_files import write_bank, write_public
from services.fraud.evaluation.federation.jobs import configuration
from services.fraud.evaluation.federation.request import FederationRequest
from services.fraud.evaluation.federation.running import APP, RunningFederation, progress
from services.fraud.privacy.job import Bank, Job
from services.fraud.privacy.rows import TRAIN
from services.platform.progress import ProgressBar

# Banks in containers start when the coordinator does, and are started again until it admits them.
_WAIT_S = 300.0


def bank_rows(request: FederationRequest, number: int, step: Callable[[int, int], None]) -> Path:
    """Write one bank's rows, unless they are there. Returns their folder."""
    folder = request.home / "rows"
    if not (folder / f"{TRAIN}.npz").exists():
        write_bank(folder, request, request.seeds[0], number, step)
    return folder


def coordinate(
    request: FederationRequest, federation: RunningFederation, bar: ProgressBar
) -> tuple[Job, int]:
    """Train one network over banks that are elsewhere, by FedAvg.

    Returns:
        The job, whose folder has the network, and the bytes received from the banks.

    Raises:
        RuntimeError: the run failed.
    """
    seed = request.seeds[0]
    public = request.home / "public.npz"
    write_public(public, seed)
    banks = tuple(Bank(n, Path()) for n in range(1, request.banks + 1))
    config = {**configuration(request), "wait": _WAIT_S}
    job = Job("fedavg", "fedavg", banks, public, request.home / "apart", seed, config)
    with bar(job.name) as step:
        received = federation.run(APP, {"job": str(job.write().resolve())}, progress(step))
    return job, received
