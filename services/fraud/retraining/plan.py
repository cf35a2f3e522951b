"""The design's retraining spec: how it trains, retrains and compares models."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from features.spec import DAY
from monitoring.reference import Reference
from services.fraud.candidates import CANDIDATES
from services.fraud.features import embeddings
from services.fraud.features.request import cart_sets
from services.fraud.ingestion.columns import event_times
from services.fraud.ingestion.events import DECISIONS_STREAM
from services.fraud.model import needs_embeddings, read_model
from services.fraud.monitoring.drift import monitored_columns, reference
from services.fraud.problem import DESIGN, LATENCY_BUDGET_MS, CostModel
from services.fraud.retraining import training
from services.fraud.retraining.dataset import GATE_DAYS, TrainingData, examples, fingerprint
from services.fraud.retraining.fallback import kept_fallback
from services.fraud.retraining.outcomes import LabelledDecisions, labelled_decisions
from services.fraud.retraining.sample import MAX_ROWS
from services.fraud.service import SCORER
from services.platform.evaluation.sampling import repeated
from services.platform.models.candidates import Candidate
from services.platform.models.onnx import ModelCard
from services.platform.models.registry import RegisteredModel
from services.platform.models.tabular import TabularModel
from services.platform.progress import ProgressBar
from services.platform.retraining.gate import Evidence, ModelResult
from services.platform.retraining.spec import RequiredLabels, RetrainingSpec, TooFewLabels
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.types import Floats, Floats32

REQUIRED_LABELS = RequiredLabels(
    5_000,
    30,
    "labelled decisions",
    "frauds",
    ". Labels come two simulated weeks after the transaction: run "
    "`whiteboard simulate fraud --rate 400`",
)
VALIDATION_SHARE = 0.3
REFERENCE_DAYS = 30


def new_outcomes(
    settings: Settings, lake: Lake, card: ModelCard, bar: ProgressBar
) -> LabelledDecisions:
    """Decisions labelled since a model was trained, without the days held out for the gate.

    Raises:
        TooFewLabels: too few to train on.
    """
    with bar("reading labelled decisions"):
        data = labelled_decisions(
            settings, lake, card.unseen_since, "graph" in CANDIDATES.get(card.candidate).groups
        )
    if len(data):
        data = data.select(event_times(data.rows) < data.until - GATE_DAYS * DAY)
    REQUIRED_LABELS.check(
        data.positive,
        f"since {card.label} was trained",
        "to train on",
        data.fraud_share,
        data.counted,
    )
    return data


def train_further(
    settings: Settings,
    card: ModelCard,
    native: Path,
    data: LabelledDecisions,
    seed: int,
    bar: ProgressBar,
) -> RegisteredModel:
    """Continue the training of a champion; the newest part of the data chooses the threshold.

    Args:
        settings: Where lake and registry are.
        card: The champion's card.
        native: Folder with the champion's native model.
        data: Labelled decisions it was not trained on.
        seed: Seed of the training.
        bar: Opens a progress bar with a title.
    """
    kind = CANDIDATES.get(card.candidate)
    candidate = training.new_candidate(card.candidate, card.features)
    candidate.load(native)
    time_of = event_times(data.rows)
    is_late = time_of > np.quantile(time_of, 1 - VALIDATION_SHARE)
    fit, valid = (data.select(chosen) for chosen in (~is_late, is_late))
    examples_to_fit = examples(fit.rows, fit.vectors, kind, card.features)
    begin = perf_counter()
    with bar(f"continuing the training of {card.candidate}") as step:
        candidate.fit_more(examples_to_fit, seed, step)
    training_data = TrainingData(
        train=examples_to_fit,
        validation=examples(valid.rows, valid.vectors, kind, card.features),
        fingerprint=fingerprint(data.vectors, data.rows),
        until=float(time_of.max()),
        time=np.concatenate([event_times(fit.rows), event_times(valid.rows)]),
        limits=data.limits,
    )
    drift_reference = _reference(settings, candidate, training_data.until, bar)
    train_s = perf_counter() - begin
    parameters = {"seed": seed, "trained_on_from": card.version}
    return training.register(
        settings,
        candidate,
        training_data,
        drift_reference,
        train_s,
        parameters,
        kept_fallback(settings, card),
    )


def _reference(
    settings: Settings, candidate: Candidate, until: float, bar: ProgressBar
) -> Reference:
    """The drift monitor's reference for a retrained model, from the month before its training end.

    One night's new labels cover too few days for a reference.

    Raises:
        TooFewLabels: the month has too few labelled days.
    """
    kind = type(candidate)
    since = until - REFERENCE_DAYS * DAY
    with bar("reading the reference month"):
        month = labelled_decisions(settings, Lake(settings), since, "graph" in kind.groups)
    if not len(month):
        raise TooFewLabels("no labelled days for the drift reference")
    month = month.select(event_times(month.rows) <= until)
    score = candidate.score(examples(month.rows, month.vectors, kind, candidate.features))
    chosen = repeated(month.weight, MAX_ROWS)
    rows = monitored_columns(month.vectors, score)
    try:
        return reference(rows[chosen], event_times(month.rows)[chosen])
    except ValueError as error:
        raise TooFewLabels(f"the last {REFERENCE_DAYS} labelled days: {error}") from None


def gate_evidence(
    settings: Settings, lake: Lake, models: list[TabularModel], bar: ProgressBar
) -> Evidence:
    """Both models' scores on labelled decisions that neither was trained on.

    Raises:
        TooFewLabels: too few to decide on.
    """
    since = max(model.card.unseen_since for model in models)
    with bar("reading labelled decisions"):
        data = labelled_decisions(settings, lake, since, any(needs_embeddings(m) for m in models))
    REQUIRED_LABELS.check(
        data.positive,
        "that neither model was trained on",
        "to decide on",
        data.fraud_share,
        data.counted,
    )
    sets = {"items": cart_sets(data.rows)} if any(m.card.sets for m in models) else {}
    amount = data.rows["amount_minor"].to_numpy().astype(np.float64)
    results = [_result(m, data.vectors, sets, data.costs, amount) for m in models]
    return Evidence(
        champion=results[0],
        challenger=results[1],
        positive=data.positive,
        amount=amount,
        unit=pd.factorize(data.rows["customer_id"].to_numpy())[0],
        weight=data.weight,
        costs=data.costs.costs,
    )


def _result(
    model: TabularModel,
    vectors: Floats,
    sets: Mapping[str, Floats32],
    costs: CostModel,
    amount: Floats,
) -> ModelResult:
    """A model's scores, and the outcomes that they lead to at the present costs."""
    found = ModelResult.from_model(model, vectors, sets)
    return replace(found, outcome=costs.outcomes(found.score, found.threshold, amount))


def refresh_embeddings(settings: Settings, bar: ProgressBar) -> str:
    """Recompute the embeddings of all parties; returns what was done, for the log."""
    return f"{embeddings.refresh(settings, Lake(settings), bar):,} embeddings refreshed"


RETRAINING_SPEC = RetrainingSpec(
    design=DESIGN,
    candidates=CANDIDATES,
    read_model=read_model,
    train=training.train,
    new_outcomes=new_outcomes,
    train_further=train_further,
    gate_evidence=gate_evidence,
    costs=CostModel().costs,
    budget_ms=LATENCY_BUDGET_MS,
    decision_stream=DECISIONS_STREAM,
    route=SCORER.route,
    url=SCORER.url,
    before_retraining=refresh_embeddings,
)
