"""What to run, as `whiteboard federate` asks for it."""

from dataclasses import dataclass
from pathlib import Path

from services.fraud.evaluation.federation.banks import DAYS


@dataclass(frozen=True)
class FederationRequest:
    """What to run.

    Attributes:
        home: Folder for the banks' rows, the models and the table.
        banks: How many.
        rounds: Of training.
        seeds: Of the simulated data sets.
        days: Days of each data set.
        in_process: Everything in one process; else as SuperLink and SuperNodes.
        secure: Compare secure aggregation.
        private: Epsilons to compare.
        poison: Number of the bank that falsifies its updates; 0 for none.
    """

    home: Path
    banks: int = 4
    rounds: int = 8
    seeds: tuple[int, ...] = (7,)
    days: int = DAYS
    in_process: bool = False
    secure: bool = False
    private: tuple[float, ...] = ()
    poison: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether no switch is given."""
        return not (self.secure or self.private or self.poison)
