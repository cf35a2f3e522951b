"""What the log says of an engine that is away, also where the exception has no text."""

import logging

from nats.aio.client import Client

from services.platform.streaming.outbox import Outbox
from services.platform.streaming.retry import retry_forever
from services.platform.streaming.spill_file import OutboxEvent


async def test_an_exception_without_text_is_logged_by_its_name(caplog):
    caplog.set_level(logging.INFO)
    tries = [TimeoutError(), OSError("no route"), None]

    async def work():
        if (error := tries.pop(0)) is not None:
            raise error

    await retry_forever(work, "batch at seq 5")
    assert [record.message for record in caplog.records] == [
        "batch at seq 5: TimeoutError; retrying",
        "batch at seq 5: no route; retrying",
    ]


class Silent(Client):
    """A connection whose server does not answer."""

    async def publish(self, *_, **__):
        raise TimeoutError

    subscribe = publish


async def test_an_outbox_names_the_error_of_events_it_keeps(tmp_path, caplog):
    box = Outbox(Silent(), tmp_path, max_events=100, max_bytes=100_000)
    for count in (1, 20):  # singly, and as one batch
        events = [OutboxEvent("fraud.decision.0", f"id-{n}", b"{}") for n in range(count)]
        assert await box._publish(events) == events
    assert [record.message for record in caplog.records] == ["outbox: TimeoutError"] * 2
