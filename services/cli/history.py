"""`whiteboard history`: who was champion, and why."""

import asyncio
from typing import TYPE_CHECKING

from services.cli.options import DesignArgument, JsonOption, errors_as_messages
from services.cli.output import EVENT_COLOURS, out, show_json, table
from services.platform.settings import settings

if TYPE_CHECKING:
    from services.platform.models.promotion_log import PromotionRecord


def history(design: DesignArgument, as_json: JsonOption = False) -> None:
    """Show every promotion, refusal and rollback.

    Examples:
      whiteboard history fraud
    """
    with errors_as_messages():
        records = asyncio.run(_read(design.name))
    if as_json:
        show_json({"history": [record.model_dump(mode="json") for record in records]})
        return
    board = table("History", "at (UTC)", "model", "", "in place of", "why")
    for record in records:
        board.add_row(*_row(record))
    out.print(board)


async def _read(design: str) -> "list[PromotionRecord]":
    """From the log itself: the registry takes seconds to import."""
    from services.platform.models.promotion_log import read_history
    from services.platform.streaming.connection import connect

    nc = await connect(settings(), "history")
    try:
        return await read_history(nc.jetstream(), design)
    finally:
        await nc.close()


def _row(record: "PromotionRecord") -> tuple[str, ...]:
    before = "" if record.before is None else f"version {record.before}"
    when = f"{record.at:%Y-%m-%d %H:%M:%S}"
    event = f"[{EVENT_COLOURS[record.event]}]{record.event.replace('_', ' ')}[/]"
    return when, record.model, event, before, "; ".join(record.reasons)
