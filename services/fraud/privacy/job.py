"""A run of the federation as a file: what the server receives and what it reports.

Imports only the standard library and numpy: both environments read it.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# What a model is made of, by how the banks train it.
NETWORK, TREES = "network", "trees"
WEIGHTS, BOOSTER, REPORT = "weights.pt", "booster.json", "report.json"


@dataclass(frozen=True)
class Bank:
    """A bank that takes part.

    Attributes:
        number: From 1.
        folder: Its rows, a file a period.
        poison: "", "flip" or "scale": how it falsifies its updates.
    """

    number: int
    folder: Path
    poison: str = ""


@dataclass(frozen=True)
class Job:
    """One run of the federation.

    Attributes:
        name: Name of the row in the table.
        strategy: fedavg, fedprox, krum, trimmed, bank_noise, bagging or histograms.
        banks: Those that take part.
        public: File with rows that every bank may see, for the normalisation.
        out: Folder for the model and the report.
        seed: Of every random choice.
        config: Hyperparameters, as the banks receive them; see `conf/federated.yaml`.
    """

    name: str
    strategy: str
    banks: tuple[Bank, ...]
    public: Path
    out: Path
    seed: int
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`NETWORK` or `TREES`."""
        return TREES if self.strategy in ("bagging", "histograms") else NETWORK

    @property
    def report(self) -> dict[str, Any]:
        """What the server wrote when the run ended."""
        found: dict[str, Any] = json.loads((self.out / REPORT).read_text())
        return found

    def write(self) -> Path:
        """Write the job into its folder. Returns the file."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "job.json"
        path.write_text(json.dumps(asdict(self), default=str, indent=1))
        return path

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read a file that `write` wrote."""
        known = json.loads(path.read_text())
        banks = tuple(Bank(b["number"], Path(b["folder"]), b["poison"]) for b in known["banks"])
        paths = {name: Path(known[name]) for name in ("public", "out")}
        return cls(**{**known, **paths, "banks": banks})
