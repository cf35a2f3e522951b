"""Step 7, retraining: every night from where the champion stands, and only through the gate.

The night trains the champion on with what was decided and labelled since, and enters the result
as a challenger. A challenger, from the night or from `swap`, is judged by the newest labelled days,
which no model here is ever trained on, and by how it does in shadow mode beside live traffic.
Why not train from scratch on everything? It takes longer each night and changes what need not
change; `swap` does it when a person asks.

Labels are two weeks late by nature. The night does not guess them: it says that there are too few.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from features.spec import DAY, Floats
from services.fraud import places, training
from services.fraud.candidates import CANDIDATES
from services.fraud.features import FEATURES, SETS
from services.fraud.ingestion import DECISIONS_STREAM
from services.fraud.labelled import Labelled, labelled
from services.fraud.problem import LATENCY_BUDGET_MS, Kpi
from services.fraud.serving import wants_places
from services.fraud.training import GATE_DAYS, Split, cart_sets, examples, times
from services.skeleton.champion import version_path
from services.skeleton.gate import Evidence, Side, Verdict, judge
from services.skeleton.history import Record
from services.skeleton.lake import Lake
from services.skeleton.model import Model
from services.skeleton.progress import Bar
from services.skeleton.promotion import Succession
from services.skeleton.registry import Registry, Trained
from services.skeleton.scrape import Buckets, buckets, quantile
from services.skeleton.settings import Settings
from services.skeleton.shadow import shadow_table
from services.skeleton.stream import connect

LEAST_LABELLED, LEAST_FRAUDS = 5_000, 30
LEAST_SHADOWED = 500
# A challenger that scores nothing while this many decisions pass has failed.
_IGNORED = 3_000
_EVERY_S = 1.0
_VALIDATION_SHARE = 0.3
DESIGN = "fraud"


class TooFewLabels(ValueError):
    """Too few labelled decisions to train on or to judge by."""


class NoTraffic(ValueError):
    """Nobody asks for decisions, so shadow mode has nothing to score."""


@dataclass(frozen=True)
class Live:
    """How a challenger comes by live decisions to score.

    Attributes:
        patience_s: How long to wait for the next. traffic: Entered while they are waited for.
    """

    patience_s: float = 60.0
    traffic: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Outcome:
    """What became of a challenger. `record` is None where nothing was to be done."""

    said: str
    record: Record | None = None


def swap(settings: Settings, name: str, seed: int, bar: Bar, again: bool, live: Live) -> Outcome:
    """Enter a candidate as challenger and let the gate decide.

    Args:
        again: Train it even where an untried version of it is registered.
        live: How live decisions are come by.

    Raises:
        KeyError: no such candidate. TooFewLabels, NoTraffic: see there.
        training.TooLittleHistory: there is nothing to train on.
    """
    CANDIDATES.get(name)
    succession = Succession(settings, DESIGN)
    tried = {r.version for r in asyncio.run(succession.history())}
    version = None if again else Registry(settings).newest(DESIGN, name)
    if version is None or version in tried:
        version = training.train(settings, name, seed, bar).card.version
    return contest(settings, version, bar, live)


def contest(settings: Settings, version: int, bar: Bar, live: Live) -> Outcome:
    """Shadow, judge, and promote or refuse a registered version."""
    succession = Succession(settings, DESIGN)
    lake = Lake(settings)
    champion = succession.champion()
    if champion is None or champion == version:
        raise ValueError(f"version {version} has no champion to challenge")
    models = [_model(lake, v) for v in (champion, version)]
    asyncio.run(succession.challenge(version))
    try:
        evidence = _evidence(settings, lake, models, bar)
        with live.traffic():
            shadowed = _shadow(settings, lake, version, bar, live.patience_s)
    finally:
        asyncio.run(succession.withdraw())
    verdict = _verdict(evidence, shadowed)
    card = models[1].card
    named = f"{card.candidate}:{version}"
    decide = succession.promote if verdict.promoted else succession.refuse
    record = asyncio.run(decide(version, named, verdict.reasons, verdict.figures))
    return Outcome(f"{named} {record.event}", record)


def retrain(settings: Settings, seed: int, bar: Bar, live: Live) -> Outcome:
    """Train the champion on with what was labelled since, and let the gate decide.

    Done once for each newest labelled day; a run that was interrupted goes on where it stopped.

    Raises:
        TooFewLabels: nothing was trained. NoTraffic: trained, and judged when run again.
    """
    lake = Lake(settings)
    champion = Succession(settings, DESIGN).champion()
    if champion is None:
        raise TooFewLabels("there is no champion yet: `whiteboard train fraud --promote`")
    card = _model(lake, champion).card
    since = card.trained_until.timestamp() if card.trained_until else 0.0
    with bar("reading labelled decisions"):
        data = labelled(settings, lake, since, "graph" in CANDIDATES.get(card.candidate).groups)
        data = _but_the_newest(data)
    _enough(data, "to train on", f"since {card.candidate}:{champion} was trained")
    assert data is not None
    day = f"{datetime.fromtimestamp(times(data.rows).max(), UTC):%Y-%m-%d}"
    kept = _Night.read(lake, day)
    if kept.done:
        return Outcome(f"the labels up to {day} were trained on already: version {kept.version}")
    if kept.version is None:
        made = _train_on(settings, card.candidate, champion, data, seed, bar)
        kept = _Night(day, made.card.version)
        kept.write(lake)
    outcome = contest(settings, kept.version or 0, bar, live)
    _Night(day, kept.version, done=True).write(lake)
    return outcome


def night(settings: Settings, seed: int, bar: Bar, live: Live) -> Outcome:
    """Everything a night does: place everybody in the graph, then `retrain`."""
    placed = places.refresh(settings, Lake(settings), bar)
    try:
        done = retrain(settings, seed, bar, live)
    except TooFewLabels as error:
        done = Outcome(str(error))
    return Outcome(f"{placed:,} parties placed; {done.said}", done.record)


def promote_unjudged(settings: Settings, made: Trained, reason: str) -> Record:
    """Make a model champion without the gate: the first one, or by a person's order."""
    named = f"{made.card.candidate}:{made.card.version}"
    promoting = Succession(settings, DESIGN).promote(made.card.version, named, [reason], {})
    return asyncio.run(promoting)


@dataclass(frozen=True)
class _Night:
    """How far the retraining on the labels up to a day has come."""

    day: str
    version: int | None = None
    done: bool = False

    @classmethod
    def read(cls, lake: Lake, day: str) -> "_Night":
        try:
            return cls(**json.loads(lake.get(f"models/{DESIGN}/nights/{day}.json")))
        except FileNotFoundError:
            return cls(day)

    def write(self, lake: Lake) -> None:
        lake.put(f"models/{DESIGN}/nights/{self.day}.json", json.dumps(self.__dict__).encode())


def _model(lake: Lake, version: int) -> Model:
    return Model(lake.get(version_path(DESIGN, version)), DESIGN, FEATURES, SETS)


def _but_the_newest(data: Labelled | None) -> Labelled | None:
    """Without the days that are left for the gate."""
    if data is None or not len(data):
        return None
    time_of = times(data.rows)
    return data.where(time_of < time_of.max() - GATE_DAYS * DAY)


def _enough(data: Labelled | None, what_for: str, since: str) -> None:
    found = 0 if data is None else len(data)
    frauds = 0 if data is None else int(data.rows["fraud"].to_numpy().sum())
    if found < LEAST_LABELLED or frauds < LEAST_FRAUDS:
        raise TooFewLabels(
            f"{found:,} labelled decisions with {frauds} frauds {since}; {LEAST_LABELLED:,} with "
            f"{LEAST_FRAUDS} are needed {what_for}. Labels come two simulated weeks after the "
            "transaction: `whiteboard simulate fraud --rate 400` makes time pass"
        )


def _train_on(
    settings: Settings, name: str, champion: int, data: Labelled, seed: int, bar: Bar
) -> Trained:
    """Train a champion on; the last part of the data chooses the threshold."""
    kind = CANDIDATES.get(name)
    candidate = training.new_candidate(name)
    with TemporaryDirectory() as folder:
        candidate.load(Registry(settings).native(DESIGN, champion, Path(folder)))
    time_of = times(data.rows)
    late = time_of > np.quantile(time_of, 1 - _VALIDATION_SHARE)
    fit, valid = (data.where(chosen) for chosen in (~late, late))
    new = examples(fit.rows, fit.vectors, kind)
    begin = perf_counter()
    with bar(f"training {name} on") as step:
        candidate.fit_more(new, seed, step)
    held = Split(
        train=new,
        validation=examples(valid.rows, valid.vectors, kind),
        fingerprint=training.fingerprint(data.vectors, data.rows),
        until=float(time_of.max()),
    )
    shown = {"seed": seed, "trained_on_from": champion}
    return training.register(settings, candidate, held, perf_counter() - begin, shown)


@dataclass(frozen=True)
class _Shadowed:
    """What shadow mode measured. `failure` says why it measured nothing."""

    champion_s: Floats
    challenger_s: Floats
    scorer_p95_s: float
    failure: str = ""


def _shadow(settings: Settings, lake: Lake, version: int, bar: Bar, patience_s: float) -> _Shadowed:
    """Wait until the challenger has scored enough live decisions.

    Raises:
        NoTraffic: no decisions came for `patience_s`.
    """
    before = _request_buckets(settings)
    first = last = asyncio.run(_decisions(settings))
    quiet_since = time.monotonic()
    with bar("shadowing live decisions") as step:
        while True:
            seconds = _shadow_seconds(lake, version)
            step(min(len(seconds), LEAST_SHADOWED), LEAST_SHADOWED)
            if len(seconds) >= LEAST_SHADOWED:
                break
            now = asyncio.run(_decisions(settings))
            if now > last:
                last, quiet_since = now, time.monotonic()
            if last - first > _IGNORED and not len(seconds):
                none = np.array([np.nan])
                why = f"shadow: it scored none of {last - first:,} live decisions; it hangs or dies"
                return _Shadowed(none, none, np.nan, why)
            if time.monotonic() - quiet_since > patience_s:
                raise NoTraffic(
                    f"no live decisions for {patience_s:.0f} s, {len(seconds)} of "
                    f"{LEAST_SHADOWED} shadowed: run `whiteboard simulate fraud` beside this"
                )
            time.sleep(_EVERY_S)
    return _Shadowed(seconds[:, 1], seconds[:, 0], _scorer_p95(before, _request_buckets(settings)))


def _scorer_p95(before: Buckets, after: Buckets) -> float:
    """The scorer's p95 meanwhile; since it started, where nothing was asked meanwhile."""
    meanwhile = quantile(before, after, 0.95)
    return float(np.nan_to_num(quantile({}, after, 0.95) if np.isnan(meanwhile) else meanwhile))


def _request_buckets(settings: Settings) -> Buckets:
    try:
        url = f"{settings.scorer}/metrics"
        return buckets(url, "request_duration_seconds", {"route": "/score"})
    except OSError:
        return {}


async def _decisions(settings: Settings) -> int:
    """Decisions ever taken."""
    nc = await connect(settings, "retraining")
    try:
        info = await nc.jetstream().stream_info(DECISIONS_STREAM)
        return int(info.state.last_seq)
    finally:
        await nc.close()


def _shadow_seconds(lake: Lake, version: int) -> Floats:
    """(K, 2) seconds of the challenger's and the champion's calls."""
    columns = ["version", "seconds", "champion_seconds"]
    rows = lake.read(shadow_table(DESIGN), columns, ds.field("version") == version)
    if rows is None:
        return np.zeros((0, 2))
    return np.column_stack([rows[name].to_numpy() for name in columns[1:]])


def _evidence(settings: Settings, lake: Lake, models: list[Model], bar: Bar) -> Evidence:
    """Both models' scores on labelled decisions that neither was trained on.

    Raises:
        TooFewLabels: too few to judge by.
    """
    since = max(m.card.trained_until.timestamp() if m.card.trained_until else 0.0 for m in models)
    with bar("reading labelled decisions"):
        data = labelled(settings, lake, since, any(wants_places(m) for m in models))
    _enough(data, "to judge by", "that neither model was trained on")
    assert data is not None
    sets = {"items": cart_sets(data.rows)} if any(m.card.sets for m in models) else {}
    unmeasured = np.zeros(0)
    sides = [
        Side(m.score(data.vectors, sets).astype(np.float64), m.card.threshold, unmeasured)
        for m in models
    ]
    return Evidence(
        champion=sides[0],
        challenger=sides[1],
        positive=data.rows["fraud"].to_numpy(),
        amount=data.rows["amount_minor"].to_numpy().astype(np.float64),
        unit=pd.factorize(data.rows["customer_id"].to_numpy())[0],
        scorer_p95_s=0.0,
    )


def _verdict(evidence: Evidence, shadowed: _Shadowed) -> Verdict:
    if shadowed.failure:
        return Verdict(False, [shadowed.failure])
    champion, challenger = (
        Side(side.score, side.threshold, seconds)
        for side, seconds in (
            (evidence.champion, shadowed.champion_s),
            (evidence.challenger, shadowed.challenger_s),
        )
    )
    whole = Evidence(
        champion, challenger, evidence.positive, evidence.amount, evidence.unit,
        shadowed.scorer_p95_s,
    )  # fmt: skip
    return judge(whole, Kpi().costs, LATENCY_BUDGET_MS / 1e3)
