"""A retraining that is interrupted between training and gate, with a real store and real NATS."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.platform.models.promotion import announce
from services.platform.models.promotion_log import (
    PromotionEvent,
    PromotionRecord,
    append_record,
)
from services.platform.retraining import challenge
from services.platform.retraining.challenge import retrain
from services.platform.retraining.spec import ChallengeResult, NoTraffic, ShadowTraffic
from services.platform.storage.lake import Lake

DESIGN, CHAMPION = "fraud", 3


class Trainings:
    """A design whose trainings are counted, and whose challenges may find no traffic."""

    def __init__(self, config):
        self.config, self.day, self.traffic = config, "2026-01-05", True
        self.trained, self.challenged = [], []
        self.spec = SimpleNamespace(
            design=DESIGN,
            model=lambda lake, version: SimpleNamespace(card=SimpleNamespace(version=version)),
            new_outcomes=lambda *_: SimpleNamespace(day=self.day),
            train_further=self.train,
        )

    def train(self, *_):
        self.trained.append(self.day)
        return SimpleNamespace(card=SimpleNamespace(version=10 + len(self.trained)))

    def challenge(self, spec, settings, version, bar, traffic):
        self.challenged.append(version)
        if not self.traffic:
            raise NoTraffic("no live decisions")
        return ChallengeResult(f"{version} refused")

    async def run(self):
        """The message; empty where there was no traffic."""
        try:
            done = await asyncio.to_thread(
                retrain, self.spec, self.config, 0, None, ShadowTraffic()
            )
        except NoTraffic:
            return ""
        return done.message


@pytest.fixture
async def trainings(config, nc, monkeypatch):
    await announce(nc, DESIGN, CHAMPION)
    made = Trainings(config)
    registry = SimpleNamespace(download_native=lambda *_: Path())
    monkeypatch.setattr(challenge, "ModelRegistry", lambda _: registry)
    monkeypatch.setattr(challenge, "challenge", made.challenge)
    return made


async def test_an_interrupted_retraining_goes_on_though_there_are_newer_labels(trainings):
    trainings.day, trainings.traffic = "2026-01-05T10-00-00", False
    assert await trainings.run() == ""
    # The remedy for missing traffic makes labels, too.
    trainings.day, trainings.traffic = "2026-01-05T10-00-07", True
    assert await trainings.run() == "11 refused"
    assert trainings.trained == ["2026-01-05T10-00-00"]
    assert trainings.challenged == [11, 11]
    assert await trainings.run() == "12 refused"
    assert trainings.trained == ["2026-01-05T10-00-00", "2026-01-05T10-00-07"]


async def test_labels_up_to_a_day_are_trained_on_once(trainings):
    assert await trainings.run() == "11 refused"
    assert "already trained on the labels up to 2026-01-05: version 11" in await trainings.run()
    trainings.day = "2026-01-06"
    assert await trainings.run() == "12 refused"


async def test_the_next_night_trains_a_model_of_its_own(trainings, monkeypatch):
    trainings.traffic = False
    await trainings.run()
    monkeypatch.setattr(challenge, "_MAX_INTERRUPTION_S", 0.0)
    assert await trainings.run() == ""  # the same day's goes on, however late
    assert trainings.trained == ["2026-01-05"]
    trainings.day = "2026-01-06"
    await trainings.run()
    assert trainings.trained == ["2026-01-05", "2026-01-06"]


async def test_a_version_that_another_command_has_evaluated_is_not_evaluated_again(trainings, nc):
    trainings.traffic = False
    await trainings.run()
    record = PromotionRecord(
        at=datetime.now(UTC), event=PromotionEvent.refused, design=DESIGN, version=11,
        model="xgboost:11", before=CHAMPION, reasons=["cost"], figures={},
    )  # fmt: skip
    await append_record(nc.jetstream(), record)
    assert "already trained" in await trainings.run()
    trainings.day, trainings.traffic = "2026-01-06", True
    assert await trainings.run() == "12 refused"


@pytest.mark.parametrize(("done", "said"), [(True, "already trained"), (False, "9 refused")])
async def test_the_state_of_an_earlier_release_is_read(trainings, config, done, said):
    state = {"design": DESIGN, "day": "2026-01-05", "version": 9, "done": done}
    Lake(config).put(f"models/{DESIGN}/nights/2026-01-05.json", json.dumps(state).encode())
    assert said in await trainings.run()
    assert trainings.trained == []


async def test_one_object_is_kept_for_a_champion(trainings, config):
    for second in range(3):
        trainings.day = f"2026-01-05T10-00-0{second}"
        await trainings.run()
    assert len(Lake(config).files(f"models/{DESIGN}/nights")) == 1
