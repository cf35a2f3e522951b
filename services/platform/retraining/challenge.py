"""Step 7 as a contract: how a challenger comes to be, is judged, and takes over; or does not.

The same for every design: `swap` enters a candidate, `retrain` the champion trained on with the
labels that came since, and `contest` shadows a challenger beside live traffic and holds it to the
gate. What a design brings is its `Plan`.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow.dataset as ds

from services.platform.models.candidates import Candidates, Floats
from services.platform.models.onnx import ModelCard
from services.platform.models.promotion import Succession
from services.platform.models.promotion_log import Record
from services.platform.models.registry import Registry, Trained
from services.platform.models.served_model import M, version_path
from services.platform.progress import Bar
from services.platform.retraining.gate import Costs, Evidence, Verdict, judge
from services.platform.retraining.shadow import shadow_table
from services.platform.runtime.scrape import Buckets, buckets, quantile
from services.platform.settings import Settings
from services.platform.storage.lake import Lake
from services.platform.streaming.consumer import connect

LEAST_SHADOWED = 500
# A challenger that scores nothing while this many decisions pass has failed.
_IGNORED = 3_000
_EVERY_S = 1.0


class TooFewLabels(ValueError):
    """Too few labelled decisions to train on or to judge by."""


class NoTraffic(ValueError):
    """Nobody asks for decisions, so shadow mode has nothing to score."""


class Fresh(Protocol):
    """What was labelled since a model was trained. `day` names the newest day among it."""

    @property
    def day(self) -> str: ...


D = TypeVar("D", bound=Fresh)


@dataclass(frozen=True)
class Plan(Generic[M, D]):
    """What a design brings.

    Attributes:
        read: Makes a model of a file. train: Trains a candidate from scratch and registers it.
        fresh: What was labelled since a card's model was trained, less the days that are the
            gate's. TooFewLabels if that is too little.
        train_on: Trains a card's model on, from its native form in a folder, and registers it.
        evidence: Both models' scores on labelled decisions that neither was trained on.
            TooFewLabels if those are too few.
        costs: The KPI. budget_ms: What p95 of an answer must stay below.
        decisions: The stream of decisions. route: The route that answers, at `url`.
        before_night: What else a night does first; says what it did.
        least_shadowed: Live decisions a challenger has to have scored.
    """

    design: str
    candidates: Candidates
    read: Callable[[bytes], M]
    train: Callable[[Settings, str, int, Bar], Trained]
    fresh: Callable[[Settings, Lake, ModelCard, Bar], D]
    train_on: Callable[[Settings, ModelCard, Path, D, int, Bar], Trained]
    evidence: Callable[[Settings, Lake, list[M], Bar], Evidence]
    costs: Costs
    budget_ms: float
    decisions: str
    route: str
    url: Callable[[Settings], str]
    before_night: Callable[[Settings, Bar], str] | None = None
    least_shadowed: int = LEAST_SHADOWED

    def model(self, lake: Lake, version: int) -> M:
        """A registered version. FileNotFoundError if its file is gone."""
        return self.read(lake.get(version_path(self.design, version)))


@dataclass(frozen=True)
class Live:
    """How a challenger comes by live decisions to score.

    Attributes:
        patience_s: How long to wait for the next. traffic: Entered while they are waited for.
        seen: Called with what was measured so far, (K, 2) seconds of the challenger's and the
            champion's calls.
    """

    patience_s: float = 60.0
    traffic: Callable[[], AbstractContextManager[None]] = nullcontext
    seen: Callable[[Floats], None] = lambda _: None


@dataclass(frozen=True)
class Outcome:
    """What became of a challenger. `record` is None where nothing was to be done."""

    said: str
    record: Record | None = None


def swap(
    plan: Plan[M, D], settings: Settings, name: str, seed: int, bar: Bar, again: bool, live: Live
) -> Outcome:
    """Enter a candidate as challenger and let the gate decide.

    Args:
        again: Train it even where an untried version of it is registered.
        live: How live decisions are come by.

    Raises:
        KeyError: no such candidate. TooFewLabels, NoTraffic: see there.
        ValueError: there is nothing to train on.
    """
    plan.candidates.get(name)
    tried = {r.version for r in asyncio.run(Succession(settings, plan.design).history())}
    version = None if again else Registry(settings).newest(plan.design, name)
    if version is None or version in tried:
        version = plan.train(settings, name, seed, bar).card.version
    return contest(plan, settings, version, bar, live)


def contest(plan: Plan[M, D], settings: Settings, version: int, bar: Bar, live: Live) -> Outcome:
    """Shadow, judge, and promote or refuse a registered version."""
    succession = Succession(settings, plan.design)
    lake = Lake(settings)
    champion = succession.champion()
    if champion is None or champion == version:
        raise ValueError(f"version {version} has no champion to challenge")
    models = [plan.model(lake, v) for v in (champion, version)]
    asyncio.run(succession.challenge(version))
    try:
        with live.traffic():
            shadowed = _shadow(plan, settings, version, bar, live)
    finally:
        asyncio.run(succession.withdraw())
    # After the traffic, which may have brought labels of its own.
    evidence = plan.evidence(settings, lake, models, bar)
    verdict = _verdict(plan, evidence, shadowed)
    card = models[1].card
    named = f"{card.candidate}:{version}"
    decide = succession.promote if verdict.promoted else succession.refuse
    record = asyncio.run(decide(version, named, verdict.reasons, verdict.figures))
    return Outcome(f"{named} {record.event}", record)


def retrain(plan: Plan[M, D], settings: Settings, seed: int, bar: Bar, live: Live) -> Outcome:
    """Train the champion on with what was labelled since, and let the gate decide.

    Done once for each newest labelled day; a run that was interrupted goes on where it stopped.

    Raises:
        TooFewLabels: nothing was trained. NoTraffic: trained, and judged when run again.
    """
    lake = Lake(settings)
    champion = Succession(settings, plan.design).champion()
    if champion is None:
        raise TooFewLabels(f"there is no champion yet: `whiteboard train {plan.design} --promote`")
    card = plan.model(lake, champion).card
    data = plan.fresh(settings, lake, card, bar)
    kept = _Night.read(lake, plan.design, data.day)
    if kept.done:
        said = f"the labels up to {data.day} were trained on already: version {kept.version}"
        return Outcome(said)
    if kept.version is None:
        with TemporaryDirectory() as folder:
            native = Registry(settings).native(plan.design, champion, Path(folder))
            made = plan.train_on(settings, card, native, data, seed, bar)
        kept = replace(kept, version=made.card.version)
        kept.write(lake)
    outcome = contest(plan, settings, kept.version or 0, bar, live)
    replace(kept, done=True).write(lake)
    return outcome


def night(plan: Plan[M, D], settings: Settings, seed: int, bar: Bar, live: Live) -> Outcome:
    """Everything a night does: what the design does first, then `retrain`."""
    said = [plan.before_night(settings, bar)] if plan.before_night else []
    try:
        done = retrain(plan, settings, seed, bar, live)
    except TooFewLabels as error:
        done = Outcome(str(error))
    return Outcome("; ".join([*said, done.said]), done.record)


def promote_unjudged(settings: Settings, made: Trained, reason: str) -> Record:
    """Make a model champion without the gate: the first one, or by a person's order."""
    card = made.card
    named = f"{card.candidate}:{card.version}"
    promoting = Succession(settings, card.design).promote(card.version, named, [reason], {})
    return asyncio.run(promoting)


@dataclass(frozen=True)
class _Night:
    """How far the retraining on the labels up to a day has come."""

    design: str
    day: str
    version: int | None = None
    done: bool = False

    @classmethod
    def read(cls, lake: Lake, design: str, day: str) -> "_Night":
        try:
            return cls(**json.loads(lake.get(f"models/{design}/nights/{day}.json")))
        except FileNotFoundError:
            return cls(design, day)

    def write(self, lake: Lake) -> None:
        data = json.dumps(self.__dict__).encode()
        lake.put(f"models/{self.design}/nights/{self.day}.json", data)


@dataclass(frozen=True)
class _Shadowed:
    """What shadow mode measured. `failure` says why it measured nothing."""

    champion_s: Floats
    challenger_s: Floats
    server_p95_s: float
    failure: str = ""


def _shadow(plan: Plan[M, D], settings: Settings, version: int, bar: Bar, live: Live) -> _Shadowed:
    """Wait until the challenger has scored enough live decisions.

    Raises:
        NoTraffic: no decisions came for `live.patience_s`.
    """
    before = _request_buckets(plan, settings)
    first = last = asyncio.run(_decisions(plan, settings))
    quiet_since = time.monotonic()
    wanted = plan.least_shadowed
    with bar("shadowing live decisions") as step:
        while True:
            seconds = _shadow_seconds(plan, settings, version)
            step(min(len(seconds), wanted), wanted)
            timed = seconds[~np.isnan(seconds).any(axis=1)]
            live.seen(timed)
            if len(seconds) >= wanted:
                break
            now = asyncio.run(_decisions(plan, settings))
            if now > last:
                last, quiet_since = now, time.monotonic()
            if last - first > _IGNORED and not len(seconds):
                none = np.array([np.nan])
                why = f"shadow: it scored none of {last - first:,} live decisions; it hangs or dies"
                return _Shadowed(none, none, np.nan, why)
            if time.monotonic() - quiet_since > live.patience_s:
                raise NoTraffic(
                    f"no live decisions for {live.patience_s:.0f} s, {len(seconds)} of {wanted} "
                    f"shadowed: run `whiteboard simulate {plan.design}` beside this"
                )
            time.sleep(_EVERY_S)
    after = _request_buckets(plan, settings)
    return _Shadowed(timed[:, 1], timed[:, 0], _server_p95(before, after))


def _server_p95(before: Buckets, after: Buckets) -> float:
    """The server's p95 meanwhile; since it started, where nothing was asked meanwhile."""
    meanwhile = quantile(before, after, 0.95)
    return float(np.nan_to_num(quantile({}, after, 0.95) if np.isnan(meanwhile) else meanwhile))


def _request_buckets(plan: Plan[M, D], settings: Settings) -> Buckets:
    try:
        url = f"{plan.url(settings)}/metrics"
        return buckets(url, "request_duration_seconds", {"route": plan.route})
    except OSError:
        return {}


async def _decisions(plan: Plan[M, D], settings: Settings) -> int:
    """Decisions ever taken."""
    nc = await connect(settings, "retraining")
    try:
        info = await nc.jetstream().stream_info(plan.decisions)
        return int(info.state.last_seq)
    finally:
        await nc.close()


def _shadow_seconds(plan: Plan[M, D], settings: Settings, version: int) -> Floats:
    """(K, 2) seconds of the challenger's and the champion's calls, NaN where not timed."""
    columns = ["version", "seconds", "champion_seconds"]
    table = shadow_table(plan.design)
    rows = Lake(settings).read(table, columns, ds.field("version") == version)
    if rows is None:
        return np.zeros((0, 2))
    return np.column_stack([rows[name].to_numpy() for name in columns[1:]])


def _verdict(plan: Plan[M, D], evidence: Evidence, shadowed: _Shadowed) -> Verdict:
    if shadowed.failure:
        return Verdict(False, [shadowed.failure])
    whole = replace(
        evidence,
        champion=replace(evidence.champion, seconds=shadowed.champion_s),
        challenger=replace(evidence.challenger, seconds=shadowed.challenger_s),
        scorer_p95_s=shadowed.server_p95_s,
    )
    return judge(whole, plan.costs, plan.budget_ms / 1e3)
