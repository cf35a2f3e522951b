"""A small inspection model, trained for real on a few pictures; made once a session."""

from datetime import UTC, datetime
from functools import cache

from services.cv_inspection import training
from services.cv_inspection.pictures import Pictures
from services.cv_inspection.problem import CLASSES
from services.cv_inspection.vision import ImageCandidate
from services.skeleton.model import ModelCard

SIZE = 64
SMALL = {"size": SIZE, "epochs": 2, "more_epochs": 1, "batch": 16, "weights": "auto"}


def quiet(*_: int) -> None:
    """A step nobody is told of."""


@cache
def shown(count: int = 96, first: int = 0, defects: float = 0.5) -> Pictures:
    return training.simulated(3, first, count, defects, SIZE, quiet)


def trained(name: str, **changes: object) -> ImageCandidate:
    made = training.new_candidate(name, CLASSES, {**SMALL, **changes})
    made.fit(shown(), shown(96, 500_000, 0.1), 0, quiet)
    return made


def cv_card(**changes: object) -> ModelCard:
    made = ModelCard(
        design="cv", candidate="efficientnet", version=1, features=("image",), classes=CLASSES,
        threshold=0.1, kpi={"escape_minor": 6_000}, trained_on="test",
        trained_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    return made.model_copy(update=changes)
