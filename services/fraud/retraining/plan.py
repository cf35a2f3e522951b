"""What this design gives the model lifecycle: how it trains, retrains and compares models."""

from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

from features.spec import DAY
from monitoring.reference import Reference
from services.fraud.candidates import CANDIDATES
from services.fraud.features import embeddings as places
from services.fraud.ingestion.events import DECISIONS_STREAM
from services.fraud.monitoring.drift import reference
from services.fraud.problem import LATENCY_BUDGET_MS, Kpi
from services.fraud.retraining import training
from services.fraud.retraining.outcomes import Labelled, labelled
from services.fraud.retraining.training import GATE_DAYS, Split, cart_sets, examples, times
from services.fraud.serving.app import read_model, wants_places
from services.platform.models.candidates import Candidate
from services.platform.models.onnx import Model, ModelCard
from services.platform.models.registry import Trained
from services.platform.progress import Bar
from services.platform.retraining.challenge import Plan, TooFewLabels
from services.platform.retraining.gate import Evidence, Side
from services.platform.settings import Settings
from services.platform.storage.lake import Lake

LEAST_LABELLED, LEAST_FRAUDS = 5_000, 30
VALIDATION_SHARE = 0.3
NORMAL_DAYS = 30


def fresh(settings: Settings, lake: Lake, card: ModelCard, bar: Bar) -> Labelled:
    """What was labelled since a model was trained, without the days that are the gate's.

    Raises:
        TooFewLabels: too few to train on.
    """
    since = card.trained_until.timestamp() if card.trained_until else 0.0
    with bar("reading labelled decisions"):
        data = labelled(settings, lake, since, "graph" in CANDIDATES.get(card.candidate).groups)
    if data is not None and len(data):
        time_of = times(data.rows)
        data = data.where(time_of < time_of.max() - GATE_DAYS * DAY)
    return _enough(data, "to train on", f"since {card.candidate}:{card.version} was trained")


def train_on(
    settings: Settings, card: ModelCard, native: Path, data: Labelled, seed: int, bar: Bar
) -> Trained:
    """Train a champion on; the last part of the data chooses the threshold."""
    kind = CANDIDATES.get(card.candidate)
    candidate = training.new_candidate(card.candidate)
    candidate.load(native)
    time_of = times(data.rows)
    late = time_of > np.quantile(time_of, 1 - VALIDATION_SHARE)
    fit, valid = (data.where(chosen) for chosen in (~late, late))
    new = examples(fit.rows, fit.vectors, kind)
    begin = perf_counter()
    with bar(f"training {card.candidate} on") as step:
        candidate.fit_more(new, seed, step)
    held = Split(
        train=new,
        validation=examples(valid.rows, valid.vectors, kind),
        fingerprint=training.fingerprint(data.vectors, data.rows),
        until=float(time_of.max()),
        time=np.concatenate([times(fit.rows), times(valid.rows)]),
    )
    normal = _normal(settings, candidate, held.until, bar)
    shown = {"seed": seed, "trained_on_from": card.version}
    return training.register(settings, candidate, held, normal, perf_counter() - begin, shown)


def _normal(settings: Settings, candidate: Candidate, until: float, bar: Bar) -> Reference:
    """What is normal for a model that was trained on: by the month before, not a night's few days.

    Raises:
        TooFewLabels: that month has too few days to say.
    """
    kind = type(candidate)
    since = until - NORMAL_DAYS * DAY
    with bar("reading what is normal"):
        month = labelled(settings, Lake(settings), since, "graph" in kind.groups)
    if month is None:
        raise TooFewLabels("no labelled days to say what is normal by")
    month = month.where(times(month.rows) <= until)
    score = candidate.score(examples(month.rows, month.vectors, kind))
    try:
        return reference(month.vectors, score, times(month.rows))
    except ValueError as error:
        raise TooFewLabels(f"the last {NORMAL_DAYS} labelled days: {error}") from None


def evidence(settings: Settings, lake: Lake, models: list[Model], bar: Bar) -> Evidence:
    """Both models' scores on labelled decisions that neither was trained on.

    Raises:
        TooFewLabels: too few to judge by.
    """
    since = max(m.card.trained_until.timestamp() if m.card.trained_until else 0.0 for m in models)
    with bar("reading labelled decisions"):
        found = labelled(settings, lake, since, any(wants_places(m) for m in models))
    data = _enough(found, "to judge by", "that neither model was trained on")
    sets = {"items": cart_sets(data.rows)} if any(m.card.sets for m in models) else {}
    sides = [Side.of(m, data.vectors, sets) for m in models]
    return Evidence(
        champion=sides[0],
        challenger=sides[1],
        positive=data.rows["fraud"].to_numpy(),
        amount=data.rows["amount_minor"].to_numpy().astype(np.float64),
        unit=pd.factorize(data.rows["customer_id"].to_numpy())[0],
    )


def place_everybody(settings: Settings, bar: Bar) -> str:
    """Give every party its place in the graph anew."""
    return f"{places.refresh(settings, Lake(settings), bar):,} parties placed"


def _enough(data: Labelled | None, what_for: str, since: str) -> Labelled:
    found = 0 if data is None else len(data)
    frauds = 0 if data is None else int(data.rows["fraud"].to_numpy().sum())
    if data is None or found < LEAST_LABELLED or frauds < LEAST_FRAUDS:
        raise TooFewLabels(
            f"{found:,} labelled decisions with {frauds} frauds {since}; {LEAST_LABELLED:,} with "
            f"{LEAST_FRAUDS} are needed {what_for}. Labels come two simulated weeks after the "
            "transaction: `whiteboard simulate fraud --rate 400` makes time pass"
        )
    return data


PLAN = Plan(
    design="fraud",
    candidates=CANDIDATES,
    read=read_model,
    train=training.train,
    fresh=fresh,
    train_on=train_on,
    evidence=evidence,
    costs=Kpi().costs,
    budget_ms=LATENCY_BUDGET_MS,
    decisions=DECISIONS_STREAM,
    route="/score",
    url=lambda settings: settings.scorer,
    before_night=place_everybody,
)
