"""Step 4 as a contract: what every candidate implements, and the registry of candidates.

A candidate is one file in its design's `candidates/`, registered by decorator: it trains with any
library and exports one ONNX graph. Adding one touches no other file.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar, Generic

import numpy.typing as npt
from typing_extensions import TypeVar

from services.platform.progress import ProgressCallback
from services.platform.types import Booleans, Floats, Floats32


@dataclass(frozen=True)
class Examples:
    """N labelled examples.

    Attributes:
        vectors: (N, F) features, or other inputs (N, ...) of a design's models.
        positive: (N,) labels.
        amount: (N,) minor units, for the cost model.
        sets: By name, (N, M, K): items of which a row has any number, for candidates that ask
            for them.
        weight: (N,) what each counts when fitting, for candidates that know weights; None: 1 each.
    """

    vectors: npt.NDArray[Any]
    positive: Booleans
    amount: Floats
    sets: Mapping[str, Floats32] = field(default_factory=dict)
    weight: Floats | None = None

    def __len__(self) -> int:
        return len(self.positive)


E = TypeVar("E", bound=Examples, default=Examples)


class Candidate(ABC, Generic[E]):
    """One answer to "which model?".

    Attributes:
        name: Name on the command line.
        role: Why one would choose it, in a clause.
        groups: Feature groups it needs besides the design's own.
        sets: Sets it needs.
        parameters: Hyperparameters, from the design's `conf/<name>.yaml`.
        features: (F,) names of its features, in order.
    """

    name: ClassVar[str]
    role: ClassVar[str]
    groups: ClassVar[tuple[str, ...]] = ()
    sets: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: Mapping[str, Any], features: tuple[str, ...]) -> None:
        self.parameters = dict(parameters)
        self.features = features

    @abstractmethod
    def fit(self, train: E, validation: E, seed: int, step: ProgressCallback) -> None:
        """Train from scratch.

        Args:
            train: N examples to fit on.
            validation: Examples to stop early or to tune on.
            seed: Of every random choice.
            step: Called with (done, total).
        """

    @abstractmethod
    def score(self, examples: E) -> Floats:
        """Scores (N,) by the native model, which the exported graph must reproduce."""

    @abstractmethod
    def export(self) -> bytes:
        """The ONNX file. Tabular: `features` (N, F) and the sets, float32, -> `score` (N,)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the native model into a folder, for later training."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read a native model that `save` wrote."""

    def explanation(self) -> Mapping[str, npt.NDArray[Any]]:
        """Arrays that explaining its scores needs besides the ONNX file; none by default."""
        return {}

    @abstractmethod
    def fit_more(self, train: E, seed: int, step: ProgressCallback) -> None:
        """Continue training on N examples it has not seen. Arguments as of `fit`."""


C = TypeVar("C", bound=type[Candidate[Any]])


class CandidateRegistry:
    """The candidates of one design: the modules of one package."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._known: dict[str, type[Candidate[Any]]] = {}
        self._imported = False

    def register(self, candidate: C) -> C:
        """Class decorator. ValueError if the name is taken."""
        taken = self._known.get(candidate.name)
        if taken is not None:
            raise ValueError(
                f"candidate {candidate.name!r} is already defined in {taken.__module__}"
            )
        self._known[candidate.name] = candidate
        return candidate

    def get(self, name: str) -> type[Candidate[Any]]:
        """A candidate by name, of the file of that name if it has one. KeyError lists the known."""
        if name.isidentifier() and find_spec(f"{self._package}.{name}"):
            import_module(f"{self._package}.{name}")
        if name in self._known:
            return self._known[name]
        known = self.all()
        if name not in known:
            raise KeyError(f"no candidate {name!r}: choose from {', '.join(sorted(known))}")
        return known[name]

    def all(self) -> dict[str, type[Candidate[Any]]]:
        """All candidates by name, after importing their files."""
        if not self._imported:
            package = import_module(self._package)
            for module in iter_modules(package.__path__):
                import_module(f"{self._package}.{module.name}")
            self._imported = True
        return dict(self._known)
