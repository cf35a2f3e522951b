"""Which design a command is about.

The designs' files have the same names, so a command finds the step it needs by the design's name.
"""

from enum import StrEnum
from importlib import import_module
from typing import Annotated, Any

import typer

from services.platform.design import Design


class DesignName(StrEnum):
    """The designs there are."""

    fraud = "fraud"
    cv = "cv"


DesignArgument = Annotated[DesignName, typer.Argument(help="Which design.")]

_PACKAGES = {DesignName.fraud: "services.fraud", DesignName.cv: "services.cv_inspection"}


def module(design: DesignName, name: str) -> Any:
    """A file of a design. Imported when it is asked for: training's libraries take seconds."""
    return import_module(f"{_PACKAGES[design]}.{name}")


def wiring(design: DesignName) -> Design:
    """A design's `design.py`."""
    made: Design = module(design, "design").DESIGN
    return made


def fraud_alone(design: DesignName, instead: str) -> None:
    """For a command that the inspection design has no use for. Ends the command if it is asked."""
    if design is not DesignName.fraud:
        raise typer.BadParameter(f"this is for fraud alone; {instead}")
