"""What this design gives the model lifecycle: how it trains, retrains and compares models."""

from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.features.labelled_images import Pictures
from services.cv_inspection.ingestion.events import DECISIONS_STREAM
from services.cv_inspection.problem import CLASSES, LATENCY_BUDGET_MS, Kpi
from services.cv_inspection.retraining import training
from services.cv_inspection.retraining.outcomes import Labelled, labelled, pictures
from services.cv_inspection.retraining.training import Split
from services.cv_inspection.serving.model import DESIGN, ImageModel, read_model
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import Trained
from services.platform.progress import Bar
from services.platform.retraining.challenge import Plan, TooFewLabels
from services.platform.retraining.gate import Evidence, Side
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

LEAST_LABELLED, LEAST_DEFECTS = 200, 15
LEAST_SHADOWED = 200
GATE_SHARE = 0.2
_REHEARSED = 400
_MOST_TRAINED = 2_000
_VALIDATION_SHARE = 0.3
_STILL_THERE = "that the store still has"


def fresh(settings: Settings, lake: Lake, card: ModelCard, bar: Bar) -> Labelled:
    """What was judged since a model was trained, without the share that is the gate's.

    Raises:
        TooFewLabels: too few to train on.
    """
    since = card.trained_until.timestamp() if card.trained_until else 0.0
    with bar("reading verdicts"):
        found = labelled(lake, since)
    data = Labelled(found.rows.iloc[: round(len(found) * (1 - GATE_SHARE))].tail(_MOST_TRAINED))
    _enough(data.positive, "to train on", f"since {card.candidate}:{card.version} was trained")
    return data


def train_on(
    settings: Settings, card: ModelCard, native: Path, data: Labelled, seed: int, bar: Bar
) -> Trained:
    """Train a champion on, with some of what it knew; whole lots choose the threshold.

    Raises:
        TooFewLabels: the store has too few of the pictures still.
    """
    candidate = training.new_candidate(card.candidate, card.classes)
    candidate.load(native)
    with bar("fetching pictures") as step:
        new = pictures(settings, data, card.classes, candidate.size, step)
    _enough(new.positive, "to train on", _STILL_THERE)
    late = training.held_out(new, _VALIDATION_SHARE, seed)
    fit, valid = new.where(~late), new.where(late)
    with bar("remembering old pictures") as step:
        known = training.simulated(seed, 0, _REHEARSED, 0.5, candidate.size, step)
    begin = perf_counter()
    both = _together(fit, known) if card.classes == CLASSES else fit
    with bar(f"training {card.candidate} on") as step, training.all_cores():
        candidate.fit_more(both, seed, step)
    split = Split(both, valid, card.classes)
    shown = {"seed": seed, "trained_on_from": card.version}
    until = float(data.rows["event_time"].max().timestamp())
    return training.register(settings, candidate, split, perf_counter() - begin, shown, bar, until)


def evidence(settings: Settings, lake: Lake, models: list[ImageModel], bar: Bar) -> Evidence:
    """Both models' scores on judged pictures that neither was trained on.

    Raises:
        TooFewLabels: too few to judge by.
    """
    since = max(m.card.trained_until.timestamp() if m.card.trained_until else 0.0 for m in models)
    with bar("reading verdicts"):
        found = labelled(lake, since)
    _enough(found.positive, "to judge by", "that neither model was trained on")
    sides = []
    for model in models:
        with bar(f"looking again with {model.card.candidate}:{model.card.version}") as step:
            shown = pictures(settings, found, model.card.classes, model.size, step)
            _enough(shown.positive, "to judge by", _STILL_THERE)
            sides.append(Side.of(model, shown.vectors, {}))
    return Evidence(
        champion=sides[0],
        challenger=sides[1],
        positive=shown.positive,
        amount=shown.amount,
        unit=shown.unit,
    )


def _together(one: Pictures, other: Pictures) -> Pictures:
    parts = (one, other)
    return Pictures.of(
        np.concatenate([p.vectors for p in parts]),
        np.concatenate([p.label for p in parts]),
        np.concatenate([p.mask for p in parts]),
        np.concatenate([one.unit, other.unit + one.unit.max(initial=0) + 1]),
        np.concatenate([p.quality for p in parts]),
        float(one.amount[0]),
    )


def _enough(positive: npt.NDArray[np.bool_], what_for: str, which: str) -> None:
    count, defects = len(positive), int(positive.sum())
    if count < LEAST_LABELLED or defects < LEAST_DEFECTS:
        raise TooFewLabels(
            f"{count:,} judged pictures with {defects} defects {which}; {LEAST_LABELLED:,} "
            f"with {LEAST_DEFECTS} are needed {what_for}: `whiteboard simulate cv` makes some"
        )


PLAN = Plan(
    design=DESIGN,
    candidates=CANDIDATES,
    read=read_model,
    train=training.train,
    fresh=fresh,
    train_on=train_on,
    evidence=evidence,
    costs=Kpi().costs,
    budget_ms=LATENCY_BUDGET_MS,
    decisions=DECISIONS_STREAM,
    route="/inspect",
    url=lambda settings: settings.inspector,
    least_shadowed=LEAST_SHADOWED,
)
