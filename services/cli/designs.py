"""Which design a command is about."""

from enum import Enum
from typing import Annotated

import typer


class DesignName(str, Enum):
    """The designs there are."""

    fraud = "fraud"


DesignArgument = Annotated[DesignName, typer.Argument(help="Which design.")]
