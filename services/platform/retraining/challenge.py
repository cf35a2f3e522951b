"""Step 7 as a contract: how a challenger is trained, evaluated, and promoted or refused.

The same for every design, given its `RetrainingSpec`: `swap` enters a candidate as challenger,
`retrain` continues training the champion on the outcomes since, and `challenge` shadows a
challenger on live traffic and lets the gate decide.
"""

import asyncio
import json
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from services.platform.models.names import earlier_retraining_path, retraining_path
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

# A model that was trained so long ago and not evaluated is left: the next night trains another.
_MAX_INTERRUPTION_S = 12 * 3_600.0


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

    Done once for the labels up to a day (`NewOutcomes.day`). A run that was interrupted goes on
    with the version that it trained, for half a day even if there are newer labels by then.

    Raises:
        TooFewLabels: nothing was trained.
        NoTraffic: a model was trained; run again to evaluate it.
    """
    lake = Lake(settings)
    lifecycle = ModelLifecycle(settings, spec.design)
    champion = asyncio.run(lifecycle.champion())
    if champion is None:
        raise TooFewLabels(f"there is no champion yet: `whiteboard train {spec.design} --promote`")
    card = spec.model(lake, champion).card
    outcomes = spec.new_outcomes(settings, lake, card, bar)
    evaluated = {record.version for record in asyncio.run(lifecycle.history())}
    state = _RetrainingState.read(lake, spec.design, champion, outcomes.day, evaluated)
    if state.done:
        message = f"already trained on the labels up to {outcomes.day}: version {state.version}"
        return ChallengeResult(message)
    if state.version is None:
        with TemporaryDirectory() as folder:
            native = ModelRegistry(settings).download_native(spec.design, champion, Path(folder))
            trained = spec.train_further(settings, card, native, outcomes, seed, bar)
        state = replace(state, version=trained.card.version, trained_at=time.time())
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
    """How far the newest retraining of a champion has come.

    Attributes:
        design: Name of the design.
        champion: The version that is trained further.
        day: Until when it had labels, see `NewOutcomes.day`.
        version: The trained version, None before it is trained.
        done: Whether the gate has decided.
        trained_at: When the version was trained, seconds since the epoch; 0 if it is not known.
    """

    design: str
    champion: int
    day: str
    version: int | None = None
    done: bool = False
    trained_at: float = 0.0

    @classmethod
    def read(
        cls, lake: Lake, design: str, champion: int, day: str, evaluated: Collection[int]
    ) -> "_RetrainingState":
        """The state of a retraining on the labels up to a day, or of one before that goes on.

        Args:
            evaluated: Versions that the gate has decided about, also in a challenge of another
                command.
        """
        found = cls._stored(lake, design, champion, day)
        if found is None:
            return cls(design, champion, day)
        found = replace(found, done=found.done or found.version in evaluated)
        is_recent = time.time() - found.trained_at < _MAX_INTERRUPTION_S
        goes_on = found.day == day or (is_recent and not found.done)
        return found if goes_on else cls(design, champion, day)

    @classmethod
    def _stored(cls, lake: Lake, design: str, champion: int, day: str) -> "_RetrainingState | None":
        for path in (retraining_path(design, champion), earlier_retraining_path(design, day)):
            with suppress(FileNotFoundError):
                return cls(**{"champion": champion, **json.loads(lake.get(path))})
        return None

    def write(self, lake: Lake) -> None:
        lake.put(retraining_path(self.design, self.champion), json.dumps(asdict(self)).encode())


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
