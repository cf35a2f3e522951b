"""Step 4 as a contract: what every candidate is, and the registry it enters by decorator.

A candidate is one file in its design's `candidates/`: it trains in whatever it likes and exports
one ONNX graph. Adding one touches no other file.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar, Generic

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeVar

from services.platform.models.onnx import Floats32
from services.platform.progress import Step

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Examples:
    """N labelled examples.

    Attributes:
        vectors: (N, F) features, or whatever else a model looks at.
        positive: (N,) labels. amount: (N,) minor units, for the KPI.
        sets: By name, (N, M, K): what a row has any number of, for candidates that ask for it.
    """

    vectors: npt.NDArray[Any]
    positive: npt.NDArray[np.bool_]
    amount: Floats
    sets: Mapping[str, Floats32] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.positive)


E = TypeVar("E", bound=Examples, default=Examples)


class Candidate(ABC, Generic[E]):
    """One answer to "which model?".

    Attributes:
        name: What it is called on the command line. role: Why one would choose it, in a clause.
        groups: Feature groups it asks for besides the design's own. sets: Sets it asks for.
    """

    name: ClassVar[str]
    role: ClassVar[str]
    groups: ClassVar[tuple[str, ...]] = ()
    sets: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: Mapping[str, Any], features: tuple[str, ...]) -> None:
        self.parameters = dict(parameters)
        self.features = features

    @abstractmethod
    def fit(self, train: E, validation: E, seed: int, step: Step) -> None:
        """Train from scratch. `step(done, of)` is called as it goes on."""

    @abstractmethod
    def score(self, examples: E) -> Floats:
        """Scores (N,) by the native model: what the export is held to."""

    @abstractmethod
    def export(self) -> bytes:
        """The ONNX file. Tabular: `features` (N, F) and the sets, float32, to `score` (N,)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Keep the native model in a folder, to train on from later."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Take up a native model that `save` kept."""

    @abstractmethod
    def fit_more(self, train: E, seed: int, step: Step) -> None:
        """Train on from where it stands, on examples it has not seen."""


C = TypeVar("C", bound=type[Candidate[Any]])


class Candidates:
    """The candidates of one design, found in one package."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._known: dict[str, type[Candidate[Any]]] = {}
        self._looked = False

    def register(self, candidate: C) -> C:
        """Class decorator. ValueError if the name is taken."""
        taken = self._known.get(candidate.name)
        if taken is not None:
            raise ValueError(f"candidate {candidate.name!r} is {taken.__module__} already")
        self._known[candidate.name] = candidate
        return candidate

    def get(self, name: str) -> type[Candidate[Any]]:
        """A candidate by name. KeyError lists those there are."""
        known = self.all()
        if name not in known:
            raise KeyError(f"no candidate {name!r}: choose from {', '.join(sorted(known))}")
        return known[name]

    def all(self) -> dict[str, type[Candidate[Any]]]:
        """All candidates, their files imported."""
        if not self._looked:
            package = import_module(self._package)
            for module in iter_modules(package.__path__):
                import_module(f"{self._package}.{module.name}")
            self._looked = True
        return dict(self._known)
