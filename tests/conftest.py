"""Fixtures: the real engines on free ports, a small simulated data set, and trained models."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from filelock import FileLock
from pydantic import SecretStr

from features.aggregation import BackfilledState
from infra.local.engines import Program, engines, environment, taken
from services.cv_inspection.service import INSPECTOR
from services.designs import DESIGNS
from services.fraud.candidates import CANDIDATES
from services.fraud.features.backfill import backfill_states
from services.fraud.features.kernel import feature_vectors
from services.fraud.features.request import request_columns
from services.fraud.features.states import TABULAR
from services.fraud.ingestion.columns import Events
from services.fraud.problem import CostModel
from services.fraud.simulator.day import Day
from services.fraud.simulator.history import simulate_days
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import Traffic
from services.platform.design import accounts
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.onnx import ModelCard, write_card
from services.platform.secret_files import new_secret
from services.platform.settings import Settings, settings
from tests.conformance.toy.design import TOY

if TYPE_CHECKING:
    from services.cv_inspection.candidates.vision import ImageCandidate
    from services.cv_inspection.model import ImageModel
    from services.fraud.features.encoder import EncoderExamples
    from services.fraud.features.graph import TransactionLog


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a whole stack train models: pytest-timeout's limit is for the others."""
    for item in items:
        if item.get_closest_marker("e2e") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(2 * 3600))


# The first example compiles the kernels.
hypothesis.settings.register_profile("here", deadline=None, derandomize=True)
hypothesis.settings.load_profile("here")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SIMULATED_DAYS = 8


def consecutive_ports(count: int) -> int:
    """First of `count` consecutive free ports, also free 10,000 higher (SeaweedFS's gRPC).

    All are below the kernel's ephemeral ports: a client could take one of those between this check
    and the start of the server.
    """
    # Two test processes run at once (xdist), each with its own range of ports.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
    while True:
        first = random.randint(12_000 + 5_000 * number, 16_900 + 5_000 * number)
        wanted = [first + n + high for n in range(count) for high in (0, 10_000)]
        if not any(taken("127.0.0.1", port) for port in wanted):
            return first


def make_settings(home: Path) -> Settings:
    """Settings of a separate installation; all its ports are consecutive, so none is used twice."""
    first = consecutive_ports(44)
    names = ("nats_port", "nats_http_port", "redis_port", "s3_port", "scorer_port",
             "inspector_port", "walkthrough_port", "s3_internal_port")  # fmt: skip
    ports = {name: first + number for number, name in enumerate(names)}
    # No model of this machine's SageMaker folder is served, and none is put there.
    own = home / "own-model" / "model.onnx"
    # SeaweedFS uses four consecutive internal ports, the workers offsets up to 31.
    return Settings(home=home, model_file=own, metrics_port=ports["s3_internal_port"] + 4, **ports)


def start_engine(process: Program, logs: Path) -> "subprocess.Popen[bytes]":
    """Start an engine and wait until it listens."""
    with (logs / f"{process.name}.log").open("ab") as log:
        running = subprocess.Popen(
            process.command,
            stdout=log,
            stderr=log,
            cwd=process.directory,
            env={**environment(), **process.environment},
        )
    for port in process.ports.values():
        wait_for_port(port)
    return running


def ended(process: "subprocess.Popen[bytes]") -> None:
    """Wait until a terminated engine has ended, and kill one that does not."""
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        # SeaweedFS may take longer on a busy machine; its data goes with the folder.
        process.kill()
        process.wait(20)


def wait_for_port(port: int, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"no process listens on {port}")


@pytest.fixture
def default_environment() -> Iterator[None]:
    """No setting comes from the environment, whatever engines the session has started."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WHITEBOARD_")]:
            patch.delenv(name)
        settings.cache_clear()
        yield
    # What a test read must not be what the next one finds.
    settings.cache_clear()


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of this test session's engines, which are started once."""
    home = tmp_path_factory.mktemp("home")
    # Also the operator's of homes that a test makes beside these engines.
    password = SecretStr(new_secret())
    made = make_settings(home).model_copy(update={"password": password})
    os.environ["WHITEBOARD_PASSWORD"] = password.get_secret_value()
    for name, value in made:
        # Left unset, so that each process takes its own account.
        if name != "user" and not isinstance(value, SecretStr):
            os.environ[f"WHITEBOARD_{name.upper()}"] = str(value)
    settings.cache_clear()
    events = f"{INSPECTOR.url(made)}{INSPECTOR.object_events}"
    wanted = engines(made, events, accounts((*DESIGNS, TOY)))
    running = [start_engine(process, home) for process in wanted]
    _wait_for_bucket(made)
    yield made
    for process in running:
        process.terminate()
    for process in running:
        ended(process)


def _wait_for_bucket(made: Settings) -> None:
    from services.platform.storage.lake import Lake

    end = time.monotonic() + 30
    while True:
        try:
            Lake(made).put("ready", b"")
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


class SimulatedDays:
    """Simulated days: events, states, feature vectors and truth.

    Attributes:
        days: The days.
        last_seq: Sequence of the last event.
        transactions: N rows in the lake's schema.
        labels: The labels known by the end.
        events: Both, in order of their sequences.
        states: The backfilled states.
        vectors: (N, len(FEATURES)) features as of just before each transaction.
        fraud: (N,) outcome.
        amount: (N,) minor units.
    """

    def __init__(self) -> None:
        self.traffic = Traffic(seed=11)
        dataset = simulate_days(self.traffic, SIMULATED_DAYS, lambda *_: None)
        self.days: list[Day] = dataset.days
        self.last_seq = dataset.last_seq
        pairs = list(zip(dataset.days, dataset.seqs, strict=True))
        self.transactions: pa.Table = pa.concat_tables(
            [transaction_table(day, seq) for day, (seq, _) in pairs]
        )
        self.labels: pa.Table = pa.concat_tables(
            [label_table(d, np.nonzero(s)[0], s[np.nonzero(s)[0]]) for d, (_, s) in pairs]
        )
        self.events = Events.from_tables(self.transactions, self.labels)
        self.states: dict[str, BackfilledState] = backfill_states(self.events)
        before = {
            name: done.snapshots[self.events.is_transaction] for name, done in self.states.items()
        }
        self.vectors = feature_vectors(before, request_columns(self.transactions))
        self.fraud = np.concatenate([day.scenario > 0 for day in dataset.days])
        self.amount = np.concatenate([day.amount for day in dataset.days]).astype(np.float64)

    @property
    def examples(self) -> Examples:
        return Examples(self.vectors[:, : len(TABULAR)], self.fraud, self.amount)

    def encoder_examples(self, ledger: "TransactionLog") -> "EncoderExamples":
        from services.fraud.features.encoder import EncoderExamples

        seqs = self.transactions["seq"].to_numpy()
        return EncoderExamples.of(ledger, seqs, self.fraud, self.vectors[:, : len(TABULAR)])


@pytest.fixture(scope="session")
def simulated() -> SimulatedDays:
    return SimulatedDays()


@pytest.fixture(scope="session")
def candidate(simulated: SimulatedDays) -> Candidate:
    """A small trained XGBoost."""
    small = {"rounds": 30, "max_depth": 4, "eta": 0.3}
    made = CANDIDATES.get("xgboost")(small, TABULAR)
    made.fit(simulated.examples, simulated.examples, 0, lambda *_: None)
    return made


def card(**changes: object) -> ModelCard:
    """A model card with some fields changed."""
    from datetime import UTC, datetime

    made = ModelCard(
        design="fraud",
        candidate="xgboost",
        version=1,
        features=TABULAR,
        threshold=0.2,
        kpi={"review_minor": CostModel().opex},
        trained_on="test",
        trained_at=datetime(2022, 4, 1, tzinfo=UTC),
    )
    return made.model_copy(update=changes)


@pytest.fixture(scope="session")
def onnx(candidate: Candidate) -> bytes:
    """The candidate's file with a card."""
    return write_card(candidate.export(), card())


def _shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first test process makes, for all of them (xdist)."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / f"{name}.lock"):
        made = folder / name
        if not made.exists():
            begun = folder / f"{name}.begun"
            begun.mkdir(exist_ok=True)
            make(begun)
            begun.rename(made)
    return made


@pytest.fixture(scope="session")
def vision_candidate(tmp_path_factory: pytest.TempPathFactory) -> "ImageCandidate":
    """A small EfficientNet, trained on a few images."""
    from services.cv_inspection.problem import CLASSES
    from services.cv_inspection.retraining.training import new_candidate
    from tests.unit.cv_inspection.vision_fixtures import SMALL, trained

    folder = _shared(
        tmp_path_factory, "candidate", lambda path: trained("efficientnet", epochs=6).save(path)
    )
    made = new_candidate("efficientnet", CLASSES, {**SMALL, "epochs": 6})
    made.load(folder)
    return made


@pytest.fixture(scope="session")
def vision_file(
    tmp_path_factory: pytest.TempPathFactory, vision_candidate: "ImageCandidate"
) -> bytes:
    """The image candidate's file without a card."""

    def export(path: Path) -> None:
        (path / "model.onnx").write_bytes(vision_candidate.export())

    return (_shared(tmp_path_factory, "exported", export) / "model.onnx").read_bytes()


@pytest.fixture(scope="session")
def vision_model(vision_file: bytes) -> "ImageModel":
    """The image candidate's file as serving loads it."""
    from services.cv_inspection.model import read_model
    from tests.unit.cv_inspection.vision_fixtures import cv_card

    return read_model(write_card(vision_file, cv_card()))
