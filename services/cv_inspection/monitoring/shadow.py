"""Shadow mode of this design: the challenger scores the images of the champion's inspections."""

from collections.abc import Iterator

import numpy as np

from services.cv_inspection.ingestion.events import (
    DECISIONS_STREAM,
    InspectionEvent,
    inspection_id,
    parse_inspection,
)
from services.cv_inspection.ingestion.images import decode
from services.cv_inspection.model import ImageModel, read_model
from services.cv_inspection.problem import DESIGN
from services.platform.retraining import shadow
from services.platform.retraining.shadow import LoggedDecision
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Message

BATCH = 50


class DecisionImages:
    """Fetches the images of inspections.

    Posted images are not stored, so they are left out. So are images that were overwritten since.
    """

    def __init__(self, inbox: Lake) -> None:
        self._inbox = inbox

    def prepare(
        self, models: tuple[ImageModel, ...], batch: list[Message]
    ) -> Iterator[LoggedDecision]:
        """The inspections of a batch, with their images; each model resizes them to its size.

        An image is fetched when its inspection is asked for: all of a batch can take gigabytes.

        Raises:
            OSError: S3 does not answer.
        """
        return (logged for message in batch if (logged := self._logged_decision(message)))

    def _logged_decision(self, message: Message) -> LoggedDecision | None:
        event = _event(message)
        if event is None or event.key is None:
            return None
        try:
            data = self._inbox.get(event.key)
            if inspection_id(event.place, data) != event.inspection_id:
                return None
            pixels = np.asarray(decode(data))
        except (FileNotFoundError, ValueError):
            return None
        fields = {
            "seq": message.seq,
            "event_time": event.at,
            "decision_id": event.inspection_id,
        }
        return LoggedDecision(fields, pixels[None], {})


def _event(message: Message) -> InspectionEvent | None:
    try:
        return parse_inspection(message.data)
    except ValueError:
        return None  # the lake writer dead-letters it, with a reason


async def main(config: Settings) -> None:
    """Run until cancelled."""
    images = DecisionImages(Lake(config, config.inbox))
    await shadow.serve(config, DESIGN, read_model, images.prepare, DECISIONS_STREAM, BATCH)
