"""Step 7 as a contract: how a challenger is trained, evaluated, and promoted or refused.

The same for every design, given its `RetrainingSpec`: `swap` enters a candidate as challenger,
`retrain` continues training the champion on the outcomes since, and `challenge` shadows a
challenger on live traffic and lets the gate decide.
"""

import asyncio
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from services.platform.models.names import retraining_path
from services.platform.models.promotion import ModelLifecycle
from services.platform.models.promotion_log import PromotionRecord
from services.platform.models.registry import ModelRegistry, RegisteredModel
from services.platform.models.served_model import M
from services.platform.progress import ProgressBar
from services.platform.retraining.gate import Evidence, GateDecision, decide
from services.platform.retraining.shadow_timing import ShadowTimings, measure_shadow
from services.platform.retraining.spec import (
    ChallengeResult,
    D,
    RetrainingSpec,
    ShadowTraffic,
    TooFewLabels,
)
from services.platform.settings import Settings
from services.platform.storage.lake import Lake


def swap(
    spec: RetrainingSpec[M, D],
    settings: Settings,
    name: str,
    seed: int,
    bar: ProgressBar,
    force_training: bool,
    traffic: ShadowTraffic,
) -> ChallengeResult:
    """Enter a candidate as challenger and let the gate decide.

    Args:
        name: Name of the candidate.
        force_training: Train it even if a version that was not evaluated yet is registered.
        traffic: Where live decisions come from.

    Raises:
        KeyError: no such candidate.
        TooFewLabels: too few labelled decisions for the gate.
        NoTraffic: no live decisions.
        ValueError: there is nothing to train on.
    """
    spec.candidates.get(name)
    history = asyncio.run(ModelLifecycle(settings, spec.design).history())
    evaluated = {record.version for record in history}
    version = None if force_training else ModelRegistry(settings).newest_version(spec.design, name)
    if version is None or version in evaluated:
        version = spec.train(settings, name, seed, bar).card.version
    return challenge(spec, settings, version, bar, traffic)


def challenge(
    spec: RetrainingSpec[M, D],
    settings: Settings,
    version: int,
    bar: ProgressBar,
    traffic: ShadowTraffic,
) -> ChallengeResult:
    """Shadow a registered version, let the gate decide, and promote or refuse it.

    Raises:
        ValueError: there is no champion, or it is this version.
    """
    lifecycle = ModelLifecycle(settings, spec.design)
    lake = Lake(settings)
    champion = asyncio.run(lifecycle.champion())
    if champion is None or champion == version:
        raise ValueError(f"version {version} has no champion to challenge")
    models = [spec.model(lake, v) for v in (champion, version)]
    asyncio.run(lifecycle.start_shadow(version))
    try:
        with traffic.source():
            timings = measure_shadow(spec, settings, version, bar, traffic)
    finally:
        asyncio.run(lifecycle.stop_shadow())
    # After the traffic, which may have added labels.
    evidence = spec.gate_evidence(settings, lake, models, bar)
    decision = _decide(spec, evidence, timings)
    label = models[1].card.label
    record_decision = lifecycle.promote if decision.promoted else lifecycle.refuse
    record = asyncio.run(record_decision(version, label, decision.reasons, decision.figures))
    return ChallengeResult(f"{label} {record.event}", record)


def retrain(
    spec: RetrainingSpec[M, D],
    settings: Settings,
    seed: int,
    bar: ProgressBar,
    traffic: ShadowTraffic,
) -> ChallengeResult:
    """Continue training the champion on the outcomes since, and let the gate decide.

    Done once per newest labelled day; an interrupted run continues where it stopped.

    Raises:
        TooFewLabels: nothing was trained.
        NoTraffic: a model was trained; run again to evaluate it.
    """
    lake = Lake(settings)
    champion = asyncio.run(ModelLifecycle(settings, spec.design).champion())
    if champion is None:
        raise TooFewLabels(f"there is no champion yet: `whiteboard train {spec.design} --promote`")
    card = spec.model(lake, champion).card
    outcomes = spec.new_outcomes(settings, lake, card, bar)
    state = _RetrainingState.read(lake, spec.design, outcomes.day)
    if state.done:
        message = f"already trained on the labels up to {outcomes.day}: version {state.version}"
        return ChallengeResult(message)
    if state.version is None:
        with TemporaryDirectory() as folder:
            native = ModelRegistry(settings).download_native(spec.design, champion, Path(folder))
            trained = spec.train_further(settings, card, native, outcomes, seed, bar)
        state = replace(state, version=trained.card.version)
        state.write(lake)
    result = challenge(spec, settings, state.version or 0, bar, traffic)
    replace(state, done=True).write(lake)
    return result


def nightly_retraining(
    spec: RetrainingSpec[M, D],
    settings: Settings,
    seed: int,
    bar: ProgressBar,
    traffic: ShadowTraffic,
) -> ChallengeResult:
    """The nightly job: the design's preparation, then `retrain`."""
    messages = [spec.before_retraining(settings, bar)] if spec.before_retraining else []
    try:
        result = retrain(spec, settings, seed, bar, traffic)
    except TooFewLabels as error:
        result = ChallengeResult(str(error))
    return ChallengeResult("; ".join([*messages, result.message]), result.record)


def promote_without_gate(
    settings: Settings, model: RegisteredModel, reason: str
) -> PromotionRecord:
    """Make a model champion without the gate: the first one, or on an operator's command."""
    card = model.card
    lifecycle = ModelLifecycle(settings, card.design)
    return asyncio.run(lifecycle.promote(card.version, card.label, [reason], {}))


@dataclass(frozen=True)
class _RetrainingState:
    """How far the retraining on the outcomes up to a day has come.

    Attributes:
        design: Name of the design.
        day: The newest labelled day.
        version: The trained version, None before it is trained.
        done: Whether the gate has decided.
    """

    design: str
    day: str
    version: int | None = None
    done: bool = False

    @classmethod
    def read(cls, lake: Lake, design: str, day: str) -> "_RetrainingState":
        try:
            return cls(**json.loads(lake.get(retraining_path(design, day))))
        except FileNotFoundError:
            return cls(design, day)

    def write(self, lake: Lake) -> None:
        lake.put(retraining_path(self.design, self.day), json.dumps(asdict(self)).encode())


def _decide(spec: RetrainingSpec[M, D], evidence: Evidence, timings: ShadowTimings) -> GateDecision:
    if timings.failure:
        return GateDecision(False, [timings.failure])
    complete = replace(
        evidence,
        champion=replace(evidence.champion, seconds=timings.champion_s),
        challenger=replace(evidence.challenger, seconds=timings.challenger_s),
        scorer_p95_s=timings.server_p95_s,
    )
    return decide(complete, spec.costs, spec.budget_ms / 1e3)
