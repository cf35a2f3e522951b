"""Shadow mode for this design."""

from datetime import UTC, datetime

import numpy as np
import orjson

from services.platform.retraining import shadow
from services.platform.retraining.shadow import LoggedDecision
from services.platform.settings import Settings
from tests.conformance.toy.ingestion import DECISIONS_STREAM
from tests.conformance.toy.serving.app import read_model


def prepare(models, batch):
    """The decisions of a batch."""
    found = []
    for message in batch:
        event = orjson.loads(message.data)
        at = datetime.fromtimestamp(event["at"], UTC)
        fields = {"seq": message.seq, "event_time": at, "decision_id": event["decision_id"]}
        found.append(LoggedDecision(fields, np.array([[event["weight"]]]), {}))
    return found


async def main(config: Settings) -> None:
    """Run until cancelled."""
    await shadow.serve(config, "toy", read_model, prepare, DECISIONS_STREAM, 100)
