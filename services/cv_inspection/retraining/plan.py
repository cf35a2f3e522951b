"""The design's spec for the model lifecycle: how it trains, retrains and evaluates models."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from services.cv_inspection.candidates import CANDIDATES
from services.cv_inspection.features.image import ImageSize
from services.cv_inspection.features.labelled_images import ImageHistory, ImageSplit, LabelledImages
from services.cv_inspection.ingestion.events import DECISIONS_STREAM
from services.cv_inspection.model import MAX_REDUCTION, ImageModel, read_model
from services.cv_inspection.problem import CLASSES, DESIGN, LATENCY_BUDGET_MS, CostModel
from services.cv_inspection.retraining import training
from services.cv_inspection.retraining.outcomes import (
    LabelledInspections,
    fetch_images,
    labelled_inspections,
)
from services.cv_inspection.service import INSPECTOR
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import RegisteredModel
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.retraining.gate import Evidence, ModelResult
from services.platform.retraining.spec import RequiredLabels, RetrainingSpec, TooFewLabels
from services.platform.retraining.training import native_parameters
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

REQUIRED_LABELS = RequiredLabels(
    200, 15, "labelled images", "defects", ": `whiteboard simulate cv` makes more"
)
# A quarter of the images has a label at once: 15 % are stopped, a tenth of the others is audited.
MIN_SHADOWED = 1_200
GATE_SHARE = 0.2
_REHEARSAL_IMAGES = 400
_MAX_TRAIN_IMAGES = 2_000
# The newest; 65 KB each in memory at 128 px, pixels and mask.
_MAX_GATE_IMAGES = 3_000
_VALIDATION_SHARE = 0.3
_IN_STORE = "whose images are still in the store"


def new_outcomes(
    settings: Settings, lake: Lake, card: ModelCard, bar: ProgressBar
) -> LabelledInspections:
    """Labelled inspections since a model was trained, without the share held out for the gate.

    Raises:
        TooFewLabels: too few to train on.
    """
    with bar("reading labels"):
        labelled = labelled_inspections(lake, card.unseen_since)
    data = LabelledInspections(
        labelled.rows.iloc[: round(len(labelled) * (1 - GATE_SHARE))].tail(_MAX_TRAIN_IMAGES)
    )
    REQUIRED_LABELS.check(data.positive, f"since {card.label} was trained", "to train on")
    return data


def train_further(
    settings: Settings,
    card: ModelCard,
    native: Path,
    data: LabelledInspections,
    seed: int,
    bar: ProgressBar,
    rehearsal: Callable[[int, int, ImageSize, ProgressCallback], LabelledImages],
) -> RegisteredModel:
    """Train a champion further on new outcomes and some old images, and register it.

    Whole lots are held out to choose the threshold.

    Args:
        card: The champion's card.
        native: Folder with the champion's native model.
        data: The new outcomes.
        rehearsal: See `ImageHistory`; not used where the champion has other classes than these.

    Raises:
        TooFewLabels: the store still has too few of the images.
    """
    candidate = training.new_candidate(card.candidate, card.classes, native_parameters(native))
    candidate.load(native)
    with bar("fetching images") as step:
        reduction = card.limits.get(MAX_REDUCTION, math.inf)
        new = fetch_images(settings, data, card.classes, candidate.size, step, reduction)
    REQUIRED_LABELS.check(new.positive, _IN_STORE, "to train on")
    held_out = training.hold_out_units(new, _VALIDATION_SHARE, seed)
    if held_out.all():
        raise TooFewLabels(
            f"all {len(new):,} labelled images are of lots that are held out for the threshold: "
            "label parts of more lots"
        )
    fit, valid = new.select(~held_out), new.select(held_out)
    if card.classes == CLASSES:
        with bar("adding old images") as step:
            fit = _concatenate(fit, rehearsal(seed, _REHEARSAL_IMAGES, candidate.size, step))
    begin = perf_counter()
    with bar(f"training {card.candidate} further") as step, training.all_cores():
        candidate.fit_more(fit, seed, step)
    until = float(data.rows["event_time"].max().timestamp())
    split = ImageSplit(fit, valid, card.classes, until)
    parameters = {"seed": seed, "trained_on_from": card.version}
    return training.register(settings, candidate, split, perf_counter() - begin, parameters, bar)


def gate_evidence(
    settings: Settings, lake: Lake, models: list[ImageModel], bar: ProgressBar
) -> Evidence:
    """Both models' scores on the newest labelled images that neither was trained on.

    Args:
        models: Champion and challenger.

    Raises:
        TooFewLabels: too few to evaluate on.
    """
    since = max(model.card.unseen_since for model in models)
    with bar("reading labels"):
        counted = labelled_inspections(lake, since).counted
    labelled = LabelledInspections(counted.rows.tail(_MAX_GATE_IMAGES).reset_index(drop=True))
    REQUIRED_LABELS.check(labelled.positive, "that neither model was trained on", "to evaluate on")
    scored = []
    for model in models:
        result, images = _scored(settings, model, labelled, bar)
        scored.append((result, images.source))
    # The store may have lost an image, or got it back, between the two.
    in_both = np.intersect1d(scored[0][1], scored[1][1])
    champion, challenger = (
        replace(result, score=result.score[np.isin(source, in_both)]) for result, source in scored
    )
    images = images.select(np.isin(images.source, in_both))
    REQUIRED_LABELS.check(images.positive, _IN_STORE, "to evaluate on")
    return Evidence(
        champion=champion,
        challenger=challenger,
        positive=images.positive,
        amount=images.amount,
        unit=images.unit,
        weight=images.weight,
    )


def _scored(
    settings: Settings, model: ImageModel, labelled: LabelledInspections, bar: ProgressBar
) -> tuple[ModelResult, LabelledImages]:
    """A model's scores (M,) of the images that are in the store, and these."""
    with bar(f"scoring with {model.card.label}") as step:
        images = fetch_images(
            settings,
            labelled,
            model.card.classes,
            model.size,
            step,
            model.max_reduction,
            all_defects=True,
        )
        REQUIRED_LABELS.check(images.positive, _IN_STORE, "to evaluate on")
        result = ModelResult.from_model(model, images.vectors, {})
        score, images = images.by_image(result.score)
        return replace(result, score=score), images


def _concatenate(one: LabelledImages, other: LabelledImages) -> LabelledImages:
    parts = (one, other)
    joined = LabelledImages.from_arrays(
        np.concatenate([p.vectors for p in parts]),
        np.concatenate([p.label for p in parts]),
        np.concatenate([p.mask for p in parts]),
        np.concatenate([one.unit, other.unit + one.unit.max(initial=0) + 1]),
        np.concatenate([p.quality for p in parts]),
        float(one.amount[0]),
        np.concatenate([one.source, other.source + one.source.max(initial=0) + 1]),
    )
    return replace(joined, weight=np.concatenate([p.counted for p in parts]))


def retraining_spec(history: ImageHistory) -> RetrainingSpec[ImageModel, LabelledInspections]:
    """Spec of this design's swaps and retraining.

    Args:
        history: Images to train new candidates on, and to train champions on again.
    """
    return RetrainingSpec(
        design=DESIGN,
        candidates=CANDIDATES,
        read_model=read_model,
        train=partial(training.train, source=history.split),
        new_outcomes=new_outcomes,
        train_further=partial(train_further, rehearsal=history.rehearsal),
        gate_evidence=gate_evidence,
        costs=CostModel().costs,
        budget_ms=LATENCY_BUDGET_MS,
        decision_stream=DECISIONS_STREAM,
        route=INSPECTOR.route,
        url=INSPECTOR.url,
        min_shadowed=MIN_SHADOWED,
    )
