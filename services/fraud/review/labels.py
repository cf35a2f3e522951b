"""Labels that reviews give: a payment that an analyst calls fraud is stopped, and labelled at once.

A payment that an analyst calls genuine is made, and is labelled as any approved one: it is charged
back, or its dispute window closes. So what analysts miss is learned, too.
"""

from nats.js import JetStreamContext

from services.fraud.ingestion.events import (
    LABEL,
    LabelEvent,
    VerdictEvent,
    read_published,
    subject,
)
from services.platform.streaming.consumer import Message

NAME = "review-labels"


def label_of(data: bytes) -> LabelEvent | None:
    """The label that a published verdict gives; None if it gives none, or cannot be read."""
    event = read_published(VerdictEvent, data, NAME)
    if event is None or event.verdict != "fraud" or event.transaction is None:
        return None
    return LabelEvent.of(event.transaction, fraud=True)


async def publish_labels(js: JetStreamContext, shards: int, batch: list[Message]) -> int:
    """Publish the labels of a batch of verdicts; returns how many. A repeated batch adds none."""
    labels = [label for label in (label_of(message.data) for message in batch) if label]
    for label in labels:
        headers = {"Nats-Msg-Id": label.message_id}
        data = label.model_dump_json().encode()
        await js.publish(subject(LABEL, label, shards), data, headers=headers)
    return len(labels)
