"""Options and arguments that several commands share, and what they do with errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from services.cli.output import fail
from services.platform.design import Design, registered
from services.platform.settings import settings

T = TypeVar("T")

# Read once, when the command starts: choices and help texts come from them.
DESIGNS = {design.name: design for design in registered(settings())}


def design_by_name(name: str | Design) -> Design:
    """A design by its name on the command line."""
    if isinstance(name, Design):
        return name
    if name not in DESIGNS:
        known = ", ".join(repr(one) for one in DESIGNS)
        raise typer.BadParameter(f"{name!r} is not one of {known}.")
    return DESIGNS[name]


DesignArgument = Annotated[
    Design, typer.Argument(parser=design_by_name, metavar="|".join(DESIGNS), help="Which design.")
]
SeedOption = Annotated[int, typer.Option(help="Seed of the simulated data and of training.")]
DaysOption = Annotated[int, typer.Option(min=40, help="Days of history to simulate.")]
RateOption = Annotated[float, typer.Option(min=1, help="Transactions a second, open loop.")]
CandidateOption = Annotated[str, typer.Option(help="Which candidate; the design's first.")]
EpochsOption = Annotated[int, typer.Option(min=0, help="cv: of training; 0: the recipe's.")]
ImageSizeOption = Annotated[
    str, typer.Option(metavar="SIDE|HxW", help="cv: the model's input, pixels; the recipe's, 256.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
TrafficOption = Annotated[
    float, typer.Option(min=0, help="Requests a second to simulate during shadow mode.")
]
PatienceOption = Annotated[
    float, typer.Option(min=1, help="Seconds to wait for live decisions to shadow.")
]

FIRST = next(iter(DESIGNS.values()))
PATIENCE_S = 60.0
HISTORY_DAYS = 60


def with_command(name: str) -> Design:
    """The first design that has a command of its own."""
    return next(design for design in DESIGNS.values() if name in design.commands)


def only_with(design: Design, command: str) -> None:
    """End the command if a design does not have it."""
    if command not in design.commands:
        raise typer.BadParameter(_absent(design, command))


def hook(found: T | None, design: Design, command: str) -> T:
    """A function of a design; ends the command where the design has none."""
    if found is None:
        raise typer.BadParameter(_absent(design, command))
    return found


def _absent(design: Design, command: str) -> str:
    why = design.absent.get(command)
    return f"{design.name} has no {command}" + (f": {why}" if why else "")


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """End the command with a message where an engine is away or a name is not known."""
    try:
        yield
    except (KeyError, ValueError) as error:
        fail(str(error.args[0]) if error.args else type(error).__name__)
    except ConnectionError as error:
        fail(str(error))
    except OSError as error:
        # A file of the user's, beside which the stack says nothing.
        own = error.filename is not None and not _in_home(str(error.filename))
        fail(str(error) if own else f"{error}: is the stack up? `whiteboard up`")


def _in_home(path: str) -> bool:
    return Path(path).resolve().is_relative_to(settings().home.resolve())
