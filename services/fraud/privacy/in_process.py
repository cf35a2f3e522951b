"""The same ServerApp and ClientApps in one process: for tests, several seeds, and baselines.

    python -m services.fraud.privacy.in_process JOB...

runs the jobs whose files are named, in the banks' environment.
"""

import copy
import json
import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from services.fraud.privacy import client_app, server_app
from services.fraud.privacy.job import BOOSTER, REPORT, Bank, Job
from services.fraud.privacy.rows import Rows


class InProcessGrid(Grid):
    """Delivers each message by a call. Messages are copied, as the network copies them.

    The banks draw their noise from the seed, so that a run can be repeated; only here.
    """

    def __init__(self, banks: Iterable[Bank], seed: int) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id = 1, 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        self._run = Run.create_empty(run_id=1)
        self._contexts = {bank.number: _context(bank, seed) for bank in banks}
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str,
        ttl: float | None = None,
    ) -> Message:  # fmt: skip
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=number) for number in self._contexts]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        replies = [self._deliver(message) for message in messages]
        self._replies.update({reply.metadata.message_id: reply for reply in replies})
        return [reply.metadata.message_id for reply in replies]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> Message:
        copied = copy.deepcopy(message)
        try:
            reply = client_app.app(copied, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            reply = Message(Error(code, f"{type(error)}:<'{error}'>"), reply_to=copied)
        reply.metadata.__dict__["_message_id"] = f"{len(self._replies)}-{time.monotonic_ns()}"
        return copy.deepcopy(reply)


def _context(bank: Bank, seed: int) -> Context:
    config: dict[str, Any] = {
        "bank": bank.number, "data": str(bank.folder), "poison": bank.poison, "seed": seed,
    }  # fmt: skip
    return Context(1, bank.number, config, RecordDict(), {})


def run(job: Job) -> None:
    """Run a job in this process; summed histograms in a process a bank."""
    job.out.mkdir(parents=True, exist_ok=True)
    if job.strategy == "histograms":
        _run_histograms(job)
        return
    context = Context(1, SUPERLINK_NODE_ID, {}, RecordDict(), {})
    server_app.run(InProcessGrid(job.banks, job.seed), context, job)


def _run_histograms(job: Job) -> None:
    from services.fraud.privacy.trees import sum_histograms

    begin = time.monotonic()
    folders = [bank.folder for bank in job.banks]
    names = Rows.load(job.public).names
    model, bytes_out = sum_histograms(folders, names, job.config, job.seed)
    (job.out / BOOSTER).write_bytes(model)
    report = {"seconds": time.monotonic() - begin, "bytes_out": bytes_out, "errors": []}
    (job.out / REPORT).write_text(json.dumps(report))


def main() -> None:
    """Run the jobs named on the command line."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for path in sys.argv[1:]:
        job = Job.read(Path(path))
        print(f"job {job.name}", flush=True)
        run(job)


if __name__ == "__main__":
    main()
