"""A federation of real processes: SuperLink and SuperNodes with TLS and keys."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from infra.local import flower
from infra.local.flower import Federation, NoFlower, run_module
from infra.local.flower_keys import write_key
from services.fraud.evaluation.federation.bank_files import prepare
from services.fraud.evaluation.federation.banks import MIN_DAYS
from services.fraud.evaluation.federation.jobs import jobs
from services.fraud.evaluation.federation.request import FederationRequest
from services.fraud.evaluation.federation.running import APP, EXECUTOR, IN_PROCESS
from services.fraud.privacy.job import WEIGHTS, Job
from services.platform.settings import Settings
from tests.conftest import consecutive_ports

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        flower.environment_folder()
    except NoFlower as error:
        pytest.skip(str(error))
    return tmp_path_factory.mktemp("federated")


@pytest.fixture(scope="module")
def fedavg(home: Path) -> Job:
    """Two rounds of FedAvg on four small banks."""
    request = FederationRequest(home, rounds=2, days=MIN_DAYS)
    banks = prepare(home / "banks", request, 7, lambda *_: None)
    found: list[Job] = dict(jobs(request, banks, home, 7))["fedavg"]
    return replace(found[0], config={**found[0].config, "round-timeout": 60.0, "wait": 60.0})


@pytest.fixture(scope="module")
def federation(
    home: Path, fedavg: Job, monkeypatch_module: pytest.MonkeyPatch
) -> Iterator[Federation]:
    monkeypatch_module.setenv("WHITEBOARD_SUPERLINK_PORT", str(consecutive_ports(6)))
    nodes = {
        f"bank-{b.number}": {"bank": b.number, "data": str(b.folder), "poison": ""}
        for b in fedavg.banks
    }
    with Federation(Settings(home=home), nodes, EXECUTOR) as started:
        yield started
    end = time.monotonic() + 15
    while (left := _processes(home)) and time.monotonic() < end:
        time.sleep(0.5)
    assert not left, "processes outlive the federation"


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def _processes(home: Path) -> set[int]:
    """Processes of Flower whose files are below a folder."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FLWR_HOME", "").startswith(str(home)):
                found.add(process.pid)
    return found


def _run(federation: Federation, job: Job) -> int:
    return federation.run(APP, {"job": str(job.write().resolve())}, lambda _: None)


def _weights(job: Job) -> np.ndarray:
    state = torch.load(job.out / WEIGHTS, weights_only=True)
    return np.concatenate([value.numpy().ravel() for value in state.values()])


def test_processes_give_the_model_of_one_process(
    home: Path, fedavg: Job, federation: Federation
) -> None:
    real = replace(fedavg, out=home / "real")
    received = _run(federation, real)
    local = replace(fedavg, out=home / "local")
    run_module(IN_PROCESS, [str(local.write())], home / "flower-local", lambda _: None)
    np.testing.assert_allclose(_weights(real), _weights(local), atol=1e-6)
    # The SuperLink counts what the replies hold, and Flower's own words around it.
    payload = real.report["bytes_out"] * len(real.banks)
    assert payload < received < 1.5 * payload


def test_an_unknown_key_is_not_admitted(home: Path, fedavg: Job, federation: Federation) -> None:
    write_key(home / "strangers", "stranger")
    command = federation.supernode_command(
        "stranger", home / "strangers" / "stranger", federation._port + 5
    )
    with (home / "stranger.log").open("w") as log:
        stranger = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True,
            env={**flower.variables(home / "flower-stranger")},
        )  # fmt: skip
        try:
            job = replace(fedavg, out=home / "with-stranger")
            job = replace(job, config={**job.config, "rounds": 1})
            _run(federation, job)
        finally:
            os.killpg(stranger.pid, signal.SIGKILL)
            stranger.wait()
    assert job.report["phases"][0]["banks"] == [1, 2, 3, 4]
    assert not job.report["errors"]
    assert "Failed to activate SuperNode" in (home / "stranger.log").read_text()
    assert "No SuperNode found with the given public key" in federation.logs("superlink")


def test_the_run_goes_on_without_a_slow_bank(
    home: Path, fedavg: Job, federation: Federation
) -> None:
    slow = psutil.Process(federation._supervisor.pids()["bank-4"])
    slow.suspend()
    try:
        job = replace(fedavg, out=home / "slow")
        job = replace(job, config={**job.config, "rounds": 1, "round-timeout": 45.0})
        _run(federation, job)
    finally:
        slow.resume()
    assert job.report["phases"][0]["banks"] == [1, 2, 3]
    assert any("3 of 4 answered" in error for error in job.report["errors"])


def test_the_run_goes_on_without_a_killed_bank(
    home: Path, fedavg: Job, federation: Federation
) -> None:
    federation.kill("bank-3")
    job = replace(fedavg, out=home / "killed")
    job = replace(job, config={**job.config, "rounds": 1, "wait": 5.0, "round-timeout": 60.0})
    _run(federation, job)
    federation.start("bank-3")
    assert 3 not in job.report["phases"][0]["banks"]
    assert any("of 4" in error for error in job.report["errors"])
