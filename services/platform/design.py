"""A design: the same eight steps, and the processes that run them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

# (module, title); a step of two names is whichever of them a design has.
STEPS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("problem",), "Problem and KPI"),
    (("ingestion",), "Data ingestion"),
    (("features",), "Feature groups"),
    (("candidates",), "Model options"),
    (("serving",), "Serving"),
    (("monitoring",), "Monitoring"),
    (("retraining",), "Retraining"),
    (("privacy", "edge"), "Privacy / edge"),
)

Measured = Mapping[str, Any]

# Whose turn it is where several want a processor, as niceness: first what answers (0), next what it
# hands on to, last what may lag. A tenth and a hundredth of the first one's share (ADR 11).
NEXT, LAST = 10, 19


@dataclass(frozen=True)
class Service:
    """A process of a design.

    Attributes:
        module: What `python -m` is given. arguments: What follows it.
        ports: What it listens on, by the setting that moves it.
        nice: 0, `NEXT` or `LAST`.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    ports: Mapping[str, int] = field(default_factory=dict)
    nice: int = 0


@dataclass(frozen=True)
class Step:
    """One of the eight steps of one design, as `describe` shows it."""

    number: int
    title: str
    file: str
    decision: str
    why: str
    built: bool
    figure: str


@dataclass(frozen=True)
class Design:
    """One of the designs.

    Attributes:
        name: As on the command line. title: As a heading. package: Where its steps are.
        first_candidate: Which candidate is the first champion.
        figures: By step's module, a function that words its measured figure, given what the
            last demo and training measured.
    """

    name: str
    title: str
    package: str
    first_candidate: str
    figures: Mapping[str, Callable[[Measured], str]]

    def steps(self, measured: Measured) -> list[Step]:
        """The eight steps; one whose file does not exist says that it is not built yet."""
        return [
            self._step(number, names, title, measured)
            for number, (names, title) in enumerate(STEPS, start=1)
        ]

    def _step(self, number: int, names: tuple[str, ...], title: str, measured: Measured) -> Step:
        for name in names:
            module = f"{self.package}.{name}"
            spec = find_spec(module)
            if spec is not None and spec.origin:
                path = "services/" + spec.origin.rpartition("/services/")[2]
                path = path.removesuffix("__init__.py")
                head, why = _read_aloud(import_module(module).__doc__ or "")
                return Step(number, title, path, head, why, True, self._figure(name, measured))
        return Step(number, title, "", "not built yet", "", False, "")

    def _figure(self, name: str, measured: Measured) -> str:
        try:
            return self.figures[name](measured) if name in self.figures else ""
        except KeyError:
            return "not measured yet: `whiteboard demo`"


def _read_aloud(text: str) -> tuple[str, str]:
    """A step's docstring as (what is decided, why): its first line, and the rest."""
    head, _, rest = text.strip().partition("\n")
    decision = head.partition(": ")[2] or head
    paragraphs = (" ".join(part.split()) for part in rest.strip().split("\n\n"))
    return decision[:1].upper() + decision[1:], "\n\n".join(paragraphs)
