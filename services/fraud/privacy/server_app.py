"""The coordinator's side of the federation, as a Flower ServerApp: it sees updates, never rows."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.common import ndarrays_to_parameters
from flwr.common.serde import recorddict_to_proto
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg as LegacyFedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    FedProx,
    FedTrimmedAvg,
    FedXgbBagging,
    Krum,
    Strategy,
)

from services.fraud.privacy.job import BOOSTER, NETWORK, REPORT, TREES, WEIGHTS, Job
from services.fraud.privacy.local_training import set_weights, weights
from services.fraud.privacy.model import new_network, normalisation
from services.fraud.privacy.rows import Rows

app = ServerApp()
_MAIN_PARAMETERS = "parameters"  # where Flower's workflow keeps the model
# SecAgg+ counts in integers: weights lie well within this range, which has so many steps; the sum
# of eight banks still fits its modulus of 2**32.
_CLIPPING_RANGE, _QUANTISATION = 8.0, 1 << 28


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job whose file the run's configuration names."""
    run(grid, context, Job.read(Path(str(context.run_config["job"]))))


def run(grid: Grid, context: Context, job: Job) -> None:
    """Run a job and write its model and report.

    Raises:
        RuntimeError: no bank's update could be used.
    """
    begin = time.monotonic()
    public = Rows.load(job.public)
    net = new_network(public, int(job.config["hidden"]), job.seed)
    recording = RecordingGrid(grid, job)
    recording.wait_for_banks()
    config: dict[str, Any] = {
        **job.config, **normalisation(net), "names": ",".join(public.names), "kind": job.kind,
        "seed": job.seed, "banks": len(job.banks),
    }  # fmt: skip
    start = weights(net) if job.kind == NETWORK else [np.zeros(0, dtype=np.uint8)]
    train = _train_securely if job.config["secure"] else _train
    arrays = train(recording, context, job, config, start)
    if job.kind == TREES:
        (job.out / BOOSTER).write_bytes(arrays[0].tobytes())
    else:
        set_weights(net, arrays)
        torch.save(net.state_dict(), job.out / WEIGHTS)
    report = {"seconds": time.monotonic() - begin, **recording.report()}
    (job.out / REPORT).write_text(json.dumps(report, indent=1))


def _train(
    grid: "RecordingGrid", context: Context, job: Job, config: dict[str, Any], start: list[Any]
) -> list[Any]:
    result = strategy(job).start(
        grid=grid,
        initial_arrays=ArrayRecord(start),
        num_rounds=int(config["rounds"]),
        timeout=float(config["round-timeout"]),
        train_config=ConfigRecord(config),
    )
    if not result.arrays:
        raise RuntimeError(f"no bank's update could be used: {grid.errors}")
    return result.arrays.to_numpy_ndarrays()


def strategy(job: Job) -> Strategy:
    """Flower's strategy of a job. A round goes on with those banks that answer."""
    common: dict[str, Any] = {
        "fraction_evaluate": 0.0, "min_train_nodes": 1, "min_available_nodes": 1,
    }  # fmt: skip
    config = job.config
    if job.strategy == "fedprox":
        return FedProx(**common, proximal_mu=float(config["fedprox-mu"]))
    if job.strategy == "krum":
        return Krum(**common, num_malicious_nodes=1)
    if job.strategy == "trimmed":
        return FedTrimmedAvg(**common, beta=1 / len(job.banks))
    if job.strategy == "bagging":
        return FedXgbBagging(**common)
    if job.strategy == "bank_noise":
        return DifferentialPrivacyServerSideFixedClipping(
            FedAvg(**common), float(config["bank-noise"]), float(config["bank-clip"]),
            len(job.banks),
        )  # fmt: skip
    return FedAvg(**common)


def _train_securely(
    grid: "RecordingGrid", context: Context, job: Job, config: dict[str, Any], start: list[Any]
) -> list[Any]:
    """FedAvg of which the server learns the sum alone: SecAgg+, Flower's older workflow.

    Any three of four banks can unmask the sum, so a round survives the loss of one.
    """
    timeout = float(config["round-timeout"])
    legacy = LegacyContext(
        context=context,
        config=ServerConfig(num_rounds=int(config["rounds"]), round_timeout=timeout),
        strategy=LegacyFedAvg(
            fraction_evaluate=0.0,
            min_fit_clients=len(job.banks),
            min_available_clients=len(job.banks),
            initial_parameters=ndarrays_to_parameters(start),
            on_fit_config_fn=lambda number: {**config, "server-round": number},
            fit_metrics_aggregation_fn=lambda _: {},
        ),
    )
    workflow = SecAggPlusWorkflow(
        num_shares=1.0, reconstruction_threshold=0.75, max_weight=float(config["max-rows"]),
        clipping_range=_CLIPPING_RANGE, quantization_range=_QUANTISATION, timeout=timeout,
    )  # fmt: skip
    DefaultWorkflow(fit_workflow=workflow)(grid, legacy)
    return legacy.state.array_records[_MAIN_PARAMETERS].to_numpy_ndarrays()


class RecordingGrid:
    """A grid that hands on replies in the banks' order and notes who answered with what.

    The order makes the sums, and so the model, the same in every run of a seed.

    Attributes:
        errors: Why replies were errors, each once.
    """

    def __init__(self, grid: Grid, job: Job) -> None:
        self._grid, self._job = grid, job
        self._phases: list[dict[str, Any]] = []
        self._bytes = 0
        self._epsilon: dict[str, Any] = {}
        self._bank_of: dict[int, int] = {}
        self.errors: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def wait_for_banks(self) -> None:
        """Wait until all banks are connected, for at most `wait` seconds."""
        end = time.monotonic() + float(self._job.config["wait"])
        while (connected := len(list(self._grid.get_node_ids()))) < len(self._job.banks):
            if time.monotonic() > end:
                self._note(f"{connected} of {len(self._job.banks)} banks are connected")
                return
            time.sleep(0.5)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and return the replies in the order of the banks."""
        begin, sent = time.monotonic(), list(messages)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout)) if sent else []
        for reply in replies:
            self._read(reply)
        if sent:
            answered = [r.metadata.src_node_id for r in replies if r.has_content()]
            banks = sorted(self._bank_of.get(node, 0) for node in answered)
            self._phases.append({"banks": banks, "seconds": time.monotonic() - begin})
            if len(answered) < len(sent):
                self._note(f"phase {len(self._phases)}: {len(answered)} of {len(sent)} answered")
            # The command reads these lines for its progress bar.
            print(f"phase {len(self._phases)} of {self._total()}: banks {banks}", flush=True)
        return sorted(replies, key=lambda r: self._bank_of.get(r.metadata.src_node_id, 0))

    def report(self) -> dict[str, Any]:
        """What was noted; `bytes_out` is the mean over the banks."""
        return {
            "bytes_out": self._bytes / len(self._job.banks),
            "phases": self._phases,
            "epsilon": self._epsilon,
            "errors": self.errors,
        }

    def _total(self) -> int:
        return int(self._job.config["rounds"]) * (4 if self._job.config["secure"] else 1)

    def _read(self, reply: Message) -> None:
        if reply.has_error():
            self._note(reply.error.reason or "a bank did not answer")
            return
        self._bytes += recorddict_to_proto(reply.content).ByteSize()
        for record in reply.content.values():
            bank = record.get("bank")
            if isinstance(bank, int):
                self._bank_of[reply.metadata.src_node_id] = bank
                if "epsilon" in record:
                    self._epsilon[str(bank)] = record["epsilon"]

    def _note(self, error: str) -> None:
        if error not in self.errors:
            self.errors.append(error)
            print(f"note: {error}", flush=True)
