"""Shadow mode with a slow store, a challenger that hangs, and images of any size."""

import asyncio
import threading
import time
import weakref
from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from services.cv_inspection.ingestion.events import (
    DECISIONS_STREAM,
    inspection_id,
    inspection_subject,
)
from services.cv_inspection.monitoring.shadow import DecisionImages
from services.platform.retraining import shadow
from services.platform.retraining.shadow import (
    NAME,
    LoggedDecision,
    ShadowScorer,
    shadow_table,
)
from services.platform.retraining.shadow_timing import measure_shadow
from services.platform.retraining.spec import NoTraffic, ShadowTraffic
from services.platform.runtime.tasks import cancel_tasks
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Message, OrderedConsumer, consume
from tests.conftest import card
from tests.integration.cv_inspection.inspections import made_inspection
from tests.unit.cv_inspection.image_files import encoded, part


class Scoring:
    """A model that scores at once, or waits."""

    def __init__(self, waits=None):
        self.card, self.waits = card(version=7), waits

    def score(self, vectors, sets):
        if self.waits is not None:
            self.waits.wait(60)
        return np.full(len(vectors), 0.5, dtype=np.float32)


class Exited(BaseException):
    """The process would have ended."""


@pytest.fixture
def exits(monkeypatch):
    def exit_process(code):
        raise Exited(code)

    monkeypatch.setattr(shadow, "os", SimpleNamespace(_exit=exit_process))
    monkeypatch.setattr(shadow, "_HANG_TIMEOUT_S", 1.5)


def batch(count):
    return [Message("s", b"", seq, 0, "") for seq in range(1, count + 1)]


def decision(message, shape=(1, 4)):
    fields = {
        "seq": message.seq,
        "event_time": datetime(2026, 1, 1, tzinfo=UTC),
        "decision_id": f"d{message.seq}",
    }
    return LoggedDecision(fields, np.zeros(shape, dtype=np.uint8), {})


def scorer(config, prepare, challenger=None):
    served = [SimpleNamespace(model=model) for model in (Scoring(), challenger or Scoring())]
    return ShadowScorer(Lake(config), "shadow-test", *served, prepare)


def stored(config):
    found = Lake(config).read(shadow_table("shadow-test"))
    return [] if found is None else sorted(found["seq"].to_pylist())


@pytest.fixture(autouse=True)
def empty(config):
    Lake(config).remove([shadow_table("shadow-test")])


async def test_a_slow_store_is_waited_for(config, exits):
    def prepare(models, messages):
        time.sleep(3.0)
        return [decision(message) for message in messages]

    await scorer(config, prepare).handle(batch(20))
    assert stored(config) == list(range(1, 21))


async def test_a_store_that_is_slow_image_by_image_is_waited_for(config, exits):
    def prepare(models, messages):
        for message in messages:
            time.sleep(0.3)
            yield decision(message)

    await scorer(config, prepare).handle(batch(10))
    assert stored(config) == list(range(1, 11))


async def test_a_challenger_that_hangs_ends_the_process(config, exits):
    waits = threading.Event()
    hung = scorer(config, lambda _, ms: [decision(m) for m in ms], Scoring(waits))
    with pytest.raises(Exited):
        await hung.handle(batch(5))
    waits.set()
    assert stored(config) == []


async def test_few_large_images_are_in_memory_at_once(config):
    alive, most = set(), 0

    def prepare(models, messages):
        nonlocal most
        for message in messages:
            made = decision(message, shape=(1, 5_000, 5_000, 3))
            alive.add(message.seq)
            weakref.finalize(made.vector, alive.discard, message.seq)
            most = max(most, len(alive))
            yield made
            del made

    await scorer(config, prepare).handle(batch(20))
    assert stored(config) == list(range(1, 21))
    assert most <= 3


async def test_an_image_is_fetched_when_it_is_asked_for(config, nc):
    inbox, data = Lake(config, config.inbox), encoded(part(64))
    messages = []
    for number in range(1, 4):
        event = made_inspection(number)
        event = event.model_copy(update={"inspection_id": inspection_id(event.place, data)})
        inbox.put(event.key, data)
        messages.append(Message("s", event.model_dump_json().encode(), number, 0, ""))
    prepared = iter(DecisionImages(inbox).prepare((), messages))
    assert next(prepared).fields["seq"] == 1
    inbox.remove(["line-a"])
    assert list(prepared) == []


async def test_decisions_without_inputs_are_no_failure_of_the_challenger(config, nc):
    """The design's own shadow mode passes over them; the command says why it waits in vain."""
    spec = SimpleNamespace(
        design="shadow-test", decision_stream=DECISIONS_STREAM, min_shadowed=10, route="/inspect",
        url=lambda _: "http://127.0.0.1:9",
    )  # fmt: skip
    images = DecisionImages(Lake(config, config.inbox))
    passing = scorer(config, images.prepare)
    consumer = OrderedConsumer(nc, DECISIONS_STREAM, NAME, new_only=True)
    shadowing = asyncio.create_task(consume(consumer, passing.handle))
    posting = asyncio.create_task(post_images(nc, seconds=40.0))
    with pytest.raises(NoTraffic, match="can be shadowed: their inputs are not kept"):
        await asyncio.to_thread(measure_shadow, spec, config, 7, bar, ShadowTraffic(timeout_s=6.0))
    await cancel_tasks(shadowing, posting)


def bar(_):
    return nullcontext(lambda done, total: None)


async def post_images(nc, seconds):
    """Publish inspections of images that are in no store."""
    for number in range(int(seconds * 10)):
        event = made_inspection(number).model_copy(update={"key": None})
        await nc.jetstream().publish(inspection_subject(event), event.model_dump_json().encode())
        await asyncio.sleep(0.1)
