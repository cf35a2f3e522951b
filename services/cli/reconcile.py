"""`whiteboard reconcile`."""

import asyncio

from services.cli.options import DesignArgument, JsonOption, errors_as_messages, only_with
from services.cli.output import say, show_json
from services.platform.settings import settings


def reconcile(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Find images in the store whose event never came, and have them inspected.

    The worker does this every minute by itself.

    Examples:
      whiteboard reconcile cv
    """
    only_with(design, "reconcile")
    from services.cv_inspection.ingestion.reconciliation import reconcile as run

    with errors_as_messages():
        published = asyncio.run(run(settings()))
    if as_json:
        show_json({"told": published})
    else:
        say(f"{published} images had no result; their events are on the stream now")
