"""What waits for a consumer, as the server says it."""

import pytest
from nats.js.api import ConsumerInfo, SequenceInfo

from services.platform.streaming.consumer import unacknowledged


class Server:
    """Answers with one consumer after the other, and the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def consumer_info(self, stream, durable):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def info(pending, delivered=0, unacknowledged=0):
    return ConsumerInfo(
        name="d",
        stream_name="S",
        config=None,
        created=None,
        delivered=SequenceInfo(consumer_seq=delivered, stream_seq=delivered),
        num_pending=pending,
        num_ack_pending=unacknowledged,
    )


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((info(0), info(200)), 200),  # it was being made
        ((info(0), info(0)), 0),  # nothing was published yet
        ((info(0, delivered=7), info(3, delivered=7)), 0),  # it has done its work
        ((info(0, delivered=7, unacknowledged=2),), 2),
        ((info(5, delivered=7, unacknowledged=2),), 7),
    ],
)
async def test_a_new_consumer_that_was_not_counted_yet_is_not_taken_for_one_without_work(
    answers, expected
):
    assert await unacknowledged(Server(*answers), "S", "d") == expected
