"""Fixtures: the real engines, started once a session on free ports, and a small world to fold."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pyarrow as pa
import pytest

from features.aggregation import Backfilled
from infra.local.engines import Process, engines, environment, taken
from services.fraud.candidates import CANDIDATES
from services.fraud.features.backfill import fold_history, simulate
from services.fraud.features.states import TABULAR, vectors
from services.fraud.ingestion.events import Events
from services.fraud.problem import Kpi
from services.fraud.retraining.training import entity_frame, own_frame
from services.fraud.simulator.tables import label_table, transaction_table
from services.fraud.simulator.traffic import Day, Traffic
from services.platform.models.candidates import Candidate, Examples
from services.platform.models.onnx import ModelCard, stamp
from services.platform.settings import Settings, settings

if TYPE_CHECKING:
    from services.cv_inspection.candidates.vision import ImageCandidate
    from services.cv_inspection.serving.model import ImageModel
    from services.fraud.features.encoder import Lessons
    from services.fraud.features.graph import Ledger

# The first example compiles the kernels.
hypothesis.settings.register_profile("here", deadline=None, derandomize=True)
hypothesis.settings.load_profile("here")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
WORLD_DAYS = 8


def consecutive_ports(count: int) -> int:
    """First of some free ports in a row, free 10,000 higher too (SeaweedFS's gRPC).

    All lie below the ports that the kernel gives to clients: one of those, taken between this look
    and the server's start, would be in its way.
    """
    # Two processes test at once (xdist), and neither sees what the other is about to open.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
    while True:
        first = random.randint(12_000 + 5_000 * number, 16_900 + 5_000 * number)
        wanted = [first + n + high for n in range(count) for high in (0, 10_000)]
        if not any(taken("127.0.0.1", port) for port in wanted):
            return first


def make_settings(home: Path) -> Settings:
    """Settings of an installation of its own, its ports drawn together: none is drawn twice."""
    first = consecutive_ports(19)
    names = ("nats_port", "nats_http_port", "redis_port", "s3_port", "scorer_port",
             "inspector_port", "s3_internal_port")  # fmt: skip
    ports = {name: first + number for number, name in enumerate(names)}
    # SeaweedFS's inner ones are four in a row, the workers' metrics nine.
    return Settings(home=home, metrics_port=ports["s3_internal_port"] + 4, **ports)


def start(process: Process, logs: Path) -> "subprocess.Popen[bytes]":
    """Start an engine and wait until it listens."""
    with (logs / f"{process.name}.log").open("ab") as log:
        running = subprocess.Popen(
            process.command, stdout=log, stderr=log, env={**environment(), **process.environment}
        )
    for port in process.ports.values():
        wait_for_port(port)
    return running


def wait_for_port(port: int, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nobody listens on {port}")


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a session whose three engines run."""
    home = tmp_path_factory.mktemp("home")
    made = make_settings(home)
    for name in type(made).model_fields:
        value = getattr(made, name)
        plain = value.get_secret_value() if name == "password" else value
        os.environ[f"WHITEBOARD_{name.upper()}"] = str(plain)
    settings.cache_clear()
    running = [start(process, home) for process in engines(made)]
    _wait_for_bucket(made)
    yield made
    for process in running:
        process.terminate()
    for process in running:
        process.wait(20)


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


class World:
    """Some simulated days, folded: events, states, feature vectors and truth."""

    def __init__(self) -> None:
        self.traffic = Traffic(seed=11)
        history = simulate(self.traffic, WORLD_DAYS, lambda *_: None)
        self.days: list[Day] = history.days
        self.last_seq = history.last_seq
        pairs = list(zip(history.days, history.seqs, strict=True))
        self.transactions: pa.Table = pa.concat_tables(
            [transaction_table(day, seq) for day, (seq, _) in pairs]
        )
        self.labels: pa.Table = pa.concat_tables(
            [label_table(d, np.nonzero(s)[0], s[np.nonzero(s)[0]]) for d, (_, s) in pairs]
        )
        self.events = Events.from_tables(self.transactions, self.labels)
        self.folded: dict[str, Backfilled] = fold_history(self.events)
        before = {name: done.before[self.events.sighting] for name, done in self.folded.items()}
        self.vectors = vectors(before, own_frame(entity_frame(self.transactions)))
        self.fraud = np.concatenate([day.scenario > 0 for day in history.days])
        self.amount = np.concatenate([day.amount for day in history.days]).astype(np.float64)

    @property
    def examples(self) -> Examples:
        return Examples(self.vectors[:, : len(TABULAR)], self.fraud, self.amount)

    def lessons(self, ledger: "Ledger") -> "Lessons":
        from services.fraud.features.encoder import Lessons

        seqs = self.transactions["seq"].to_numpy()
        return Lessons.of(ledger, seqs, self.fraud, self.vectors[:, : len(TABULAR)])


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def candidate(world: World) -> Candidate:
    """A small XGBoost, trained for real."""
    small = {"rounds": 30, "max_depth": 4, "eta": 0.3}
    made = CANDIDATES.get("xgboost")(small, TABULAR)
    made.fit(world.examples, world.examples, 0, lambda *_: None)
    return made


def card(**changes: object) -> ModelCard:
    """A model card, changed as given."""
    from datetime import UTC, datetime

    made = ModelCard(
        design="fraud",
        candidate="xgboost",
        version=1,
        features=TABULAR,
        threshold=0.2,
        kpi={"review_minor": Kpi().review},
        trained_on="test",
        trained_at=datetime(2022, 4, 1, tzinfo=UTC),
    )
    return made.model_copy(update=changes)


@pytest.fixture(scope="session")
def onnx(candidate: Candidate) -> bytes:
    """Its file, with a card."""
    return stamp(candidate.export(), card())


@pytest.fixture(scope="session")
def vision_candidate() -> "ImageCandidate":
    """A small EfficientNet, trained for real on a few pictures."""
    from tests.unit.cv_inspection.vision_fixtures import trained

    return trained("efficientnet", epochs=6)


@pytest.fixture(scope="session")
def vision_file(vision_candidate: "ImageCandidate") -> bytes:
    """Its file, without a card."""
    return vision_candidate.export()


@pytest.fixture(scope="session")
def vision_model(vision_file: bytes) -> "ImageModel":
    """Its file as serving holds it."""
    from services.cv_inspection.serving.model import read_model
    from tests.unit.cv_inspection.vision_fixtures import cv_card

    return read_model(stamp(vision_file, cv_card()))
