"""Which design a command is about."""

from enum import StrEnum
from typing import Annotated

import typer


class DesignName(StrEnum):
    """The designs there are."""

    fraud = "fraud"


DesignArgument = Annotated[DesignName, typer.Argument(help="Which design.")]
