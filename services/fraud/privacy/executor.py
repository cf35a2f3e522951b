"""Runs a bank's ClientApp for each message, in a fork of a process that has imported all it needs.

    python -m services.fraud.privacy.executor --insecure --runtime-api-address HOST:PORT

takes the place of `flower-superexec`, beside a SuperNode with `--isolation process`. Flower starts
a Python process for each message, which spends 3 s of processor time on imports before it trains;
its own warm executor is for Kubernetes alone. Each message still has a process of its own.
"""

import gc
import multiprocessing
from typing import Any

# Imported for the forks. Neither has started a thread: OMP_NUM_THREADS is 1.
import torch  # noqa: F401
import xgboost  # noqa: F401
from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.exit import exit_handler
from flwr.supercore.superexec import run_superexec as superexec
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supernode.runtime.run_clientapp import run_clientapp

from services.fraud.privacy import client_app  # noqa: F401

_CONTEXT = multiprocessing.get_context("fork")


class ForkingExecutor(SubprocessExecutor):
    """Starts each task as a fork of this process, which has one thread."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start a process for a message."""
        multiprocessing.active_children()  # collects those that have ended
        _CONTEXT.Process(target=_run, args=(spec,), daemon=True).start()
        return LaunchResult.accepted()


def _run(spec: ExecutionSpec) -> None:
    """In the fork: run the ClientApp for one message."""
    exit_handler.registered_exit_handlers.clear()  # they close what the parent goes on using
    run_clientapp(spec.runtime_api_address, spec.token, spec.insecure)


def main() -> None:
    """Run Flower's SuperExec with this executor, which no setting of Flower 1.42 can choose."""

    def executor(*_: Any, **__: Any) -> ForkingExecutor:
        return ForkingExecutor()

    superexec.get_executor = executor
    gc.freeze()  # so that the forks share these pages
    flower_superexec()


if __name__ == "__main__":
    main()
