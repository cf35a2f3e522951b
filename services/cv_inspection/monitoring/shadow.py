"""Shadow mode for this design: the pictures that inspections were of, as a model is given them."""

import numpy as np

from services.cv_inspection.ingestion.events import (
    DECISIONS_STREAM,
    InspectionEvent,
    decode,
    parse_inspection,
)
from services.cv_inspection.serving.model import DESIGN, ImageModel, read_model
from services.platform.retraining import shadow
from services.platform.retraining.shadow import Logged
from services.platform.runtime.worker import run_worker
from services.platform.settings import Settings, settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import Delivered

BATCH = 50


class Pictures:
    """Fetches the pictures of inspections. One that was posted is kept nowhere, and left out."""

    def __init__(self, inbox: Lake) -> None:
        self._inbox = inbox

    def prepare(self, models: tuple[ImageModel, ...], batch: list[Delivered]) -> list[Logged]:
        """The inspections of a batch, with their pictures; each model scales them to its size.

        Raises:
            OSError: S3 does not answer.
        """
        return [logged for message in batch if (logged := self._logged(message))]

    def _logged(self, message: Delivered) -> Logged | None:
        event = _event(message)
        if event is None or event.key is None:
            return None
        try:
            picture = np.asarray(decode(self._inbox.get(event.key)))
        except (FileNotFoundError, ValueError):
            return None
        fields = {
            "seq": message.seq,
            "event_time": event.at,
            "decision_id": event.inspection_id,
        }
        return Logged(fields, picture[None], {})


def _event(message: Delivered) -> InspectionEvent | None:
    try:
        return parse_inspection(message.data)
    except ValueError:
        return None  # the lake writer puts it aside, with its reason


async def serve(config: Settings) -> None:
    """Run until cancelled."""
    pictures = Pictures(Lake(config, config.inbox))
    await shadow.serve(config, DESIGN, read_model, pictures.prepare, DECISIONS_STREAM, BATCH)


def main() -> None:
    """Start the worker."""
    config = settings()
    run_worker(config, config.metrics_port + 6, lambda: serve(config))


if __name__ == "__main__":
    main()
