"""`whiteboard rollback`."""

import asyncio
from typing import Annotated

import typer

from services.cli.lifecycle import show_record_json
from services.cli.options import DesignArgument, JsonOption, errors_as_messages
from services.cli.output import say
from services.platform.settings import settings


def rollback(
    design: DesignArgument,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "by order",
    as_json: JsonOption = False,
) -> None:
    """Make the champion before this one champion again. Asked again, it goes one further back.

    Examples:
      whiteboard rollback fraud --reason "complaints from the call centre"
    """
    # Not by the design's hooks: going back must not wait for training's libraries.
    from services.platform.models.promotion import ModelLifecycle

    with errors_as_messages():
        record = asyncio.run(ModelLifecycle(settings(), design.name).roll_back(reason))
    if as_json:
        show_record_json(f"{record.model} is champion again", record)
    else:
        say(f"[green]{record.model} is champion again[/], in place of version {record.before}")
