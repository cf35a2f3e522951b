"""The fraud design's wiring: its processes, its commands' functions, and each step's figure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from services.fraud.service import SCORER
from services.platform.access import Access
from services.platform.design import DEFERRABLE_NICE, WORKER_NICE, Design, Instances, Process
from services.platform.hooks import (
    AuditResult,
    Damage,
    Demo,
    DemoRequest,
    DriftBenchmarkResult,
    Evaluation,
    EvaluationRequest,
    Figures,
    LabelledFolder,
    Problem,
    TrafficRequest,
)
from services.platform.progress import ProgressBar, ProgressCallback
from services.platform.settings import Settings
from services.platform.walkthrough import Money, Walkthrough

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

    from services.fraud.retraining.retention import Expired
    from services.platform.capacity.parts import Capacity
    from services.platform.evaluation.comparison import (
        CandidateResult,
        ComparisonLabels,
        ServeFiles,
    )
    from services.platform.models.registry import RegisteredModel
    from services.platform.retraining.spec import RetrainingSpec
    from services.platform.storage.lake import Lake
    from services.platform.types import Floats

_FIRST_CANDIDATE = "xgboost"


def _problem() -> Problem:
    from services.fraud.problem import LATENCY_BUDGET_MS, CostModel

    return Problem(CostModel(), LATENCY_BUDGET_MS)


def _bootstrap(config: Settings, seed: int, days: int, bar: ProgressBar) -> bool:
    from services.fraud.simulator.bootstrap import bootstrap

    return bootstrap(config, _FIRST_CANDIDATE, seed, days, bar)


def _simulate(config: Settings, request: TrafficRequest, bar: ProgressBar) -> Figures:
    from services.fraud.evaluation.live import simulate

    return simulate(config, request, bar)


def _train(
    config: Settings, candidate: str, seed: int, bar: ProgressBar, folder: LabelledFolder | None
) -> "RegisteredModel":
    if folder is not None:
        raise ValueError("--data is for `whiteboard train cv`: fraud trains on the lake's history")
    from services.fraud.retraining.training import train

    return train(config, candidate, seed, bar)


def _retraining_spec() -> "RetrainingSpec[Any, Any]":
    from services.fraud.retraining.plan import RETRAINING_SPEC

    return RETRAINING_SPEC


def _compare(
    config: Settings, seeds: list[int], bar: ProgressBar, serve: "ServeFiles"
) -> "tuple[Sequence[CandidateResult], ComparisonLabels]":
    from services.fraud.evaluation.comparison import COMPARISON_LABELS, compare

    return compare(config, seeds, bar, serve), COMPARISON_LABELS


def _newest(lake: "Lake", count: int, where: "pc.Expression | None") -> "tuple[int, Floats]":
    from services.fraud.monitoring.newest import newest

    return newest(lake, count, where)


def _benchmark_drifts(
    config: Settings,
    seeds: list[int],
    drifts: Sequence[tuple[str, float]],
    step: ProgressCallback,
) -> DriftBenchmarkResult:
    from monitoring.drift_benchmark import run_benchmark
    from services.fraud.evaluation.drift_benchmark import streams

    return run_benchmark(streams(seeds, drifts, step))


def _evaluate(request: EvaluationRequest, bar: ProgressBar) -> Evaluation:
    from services.fraud.evaluation.handbook import evaluation

    return evaluation(request, bar)


def _demo() -> Demo:
    from services.fraud.evaluation import live

    def run(config: Settings, request: DemoRequest, bar: ProgressBar) -> dict[str, Any]:
        features, reasons = (
            FRAUD.worker(name).metrics_url(config) for name in ("feature-worker", "reasons")
        )
        return live.demo(config, request, bar, features, reasons)

    return Demo(run, live.demo_failures, live.demo_table)


def _feature_workers(config: Settings) -> int:
    from services.fraud.features.ownership.assignment import present_assignment

    return present_assignment(config).workers


def _check_feature_workers(config: Settings, number: int) -> None:
    from services.fraud.features.ownership.assignment import check_number

    check_number(number, config.shards)


def _assign_feature_workers(config: Settings, number: int) -> None:
    from services.fraud.features.ownership.assignment import assign_workers

    assign_workers(config, number)


def _audit(config: Settings) -> AuditResult:
    from services.fraud.monitoring.skew import audit_with_rules

    return audit_with_rules(config)


def _damage(config: Settings, since: datetime, until: datetime) -> Damage:
    from services.fraud.evaluation.without_features.damage import damage

    return damage(config, since, until)


def _money_view() -> Money:
    from services.fraud.evaluation.money import MONEY

    return MONEY


def _capacity(config: Settings) -> "Capacity":
    from services.fraud.serving.capacity import capacity

    return capacity(config)


def _lake_tables() -> "Mapping[str, pa.Schema]":
    from services.fraud.ingestion.tables import SCHEMAS
    from services.platform.retraining.shadow import SHADOW_SCHEMA, shadow_table

    return {**SCHEMAS, shadow_table(FRAUD.name): SHADOW_SCHEMA}


def _expire(config: Settings, bar: ProgressBar) -> "Expired":
    from services.fraud.retraining.retention import expire

    return expire(config, bar)


def _walkthrough() -> Walkthrough:
    from services.fraud.diagram import DIAGRAM
    from services.fraud.evaluation import newest_decisions, walkthrough

    return Walkthrough(
        DIAGRAM,
        "payment",
        walkthrough.follow,
        newest_decisions.newest,
        newest_decisions.label,
        _money_view,
    )


def _money(minor: float) -> str:
    return f"{minor / 100:,.0f} EUR"


def _cost(f: Figures) -> str:
    return f"cost {_money(f['cost'])}, approving all {_money(f['cost_approve_all'])}"


def _ingestion(f: Figures) -> str:
    return f"{f['requests']:,} transactions at {f['rate']:.0f}/s, {f['lost']} decisions lost"


def _features(f: Figures) -> str:
    return f"readable after {f['freshness_p50_ms']:.0f} ms (p99 {f['freshness_p99_ms']:.0f} ms)"


def _candidates(f: Figures) -> str:
    return f"{f['model']}: precision {f['precision']:.2f}, recall {f['recall']:.2f}"


def _serving(f: Figures) -> str:
    return f"p50 {f['p50_ms']:.1f} ms, p95 {f['p95_ms']:.1f} ms, p99 {f['p99_ms']:.1f} ms"


def _monitoring(f: Figures) -> str:
    return f"{f['vectors']:,} vectors audited, {f['mismatches']} mismatches"


def _privacy(f: Figures) -> str:
    if "federated" not in f:
        return "not measured yet: `whiteboard federate fraud`"
    row_of = {row["name"]: row for row in f["federated"]["rows"]}
    names = (("alone", "alone"), ("together", "fedavg"), ("all rows in one place", "central"))
    return "average precision (worst bank): " + ", ".join(
        f"{word} {row_of[name]['ap']:.3f} ({row_of[name]['ap_worst_bank']:.3f})"
        for word, name in names
    )


FRAUD = Design(
    name="fraud",
    title="Real-time fraud detection",
    package="services.fraud",
    http=SCORER,
    processes=(
        Process(
            "feature-worker",
            "services.fraud.features.worker",
            0,
            WORKER_NICE,
            access=Access(
                redis="write", publishes=("fraud.dead.>",), consumes=("FRAUD",), loads=("lake",)
            ),
            instances=Instances(_feature_workers, _check_feature_workers, _assign_feature_workers),
        ),
        Process(
            "lake-writer",
            "services.fraud.ingestion.lake_writer",
            1,
            DEFERRABLE_NICE,
            access=Access(
                publishes=("fraud.dead.>",),
                consumes=("FRAUD", "FRAUD_DECISIONS", "FRAUD_VERDICTS"),
                stores=("lake/fraud",),
            ),
        ),
        Process(
            "shadow",
            "services.fraud.monitoring.shadow",
            2,
            DEFERRABLE_NICE,
            access=Access(
                redis="read",
                consumes=("FRAUD_DECISIONS",),
                watches=("models",),
                loads=("lake",),
                stores=("lake/fraud",),
            ),
        ),
        Process(
            "review-desk",
            "services.fraud.review.worker",
            30,
            WORKER_NICE,
            access=Access(
                publishes=(
                    "fraud.case.>",
                    "fraud.verdict.>",
                    "fraud.label.>",
                    "$KV.FRAUD_COSTS.price",
                ),
                consumes=("FRAUD_DECISIONS", "FRAUD_REVIEWS", "FRAUD_VERDICTS"),
                reads=("FRAUD_REVIEWS", "FRAUD_VERDICTS"),
                deletes=("FRAUD_REVIEWS",),
                makes=("FRAUD_REVIEWS", "KV_FRAUD_COSTS"),
                watches=("FRAUD_COSTS",),
            ),
        ),
        Process(
            "analysts",
            "services.fraud.simulator.analysts",
            31,
            DEFERRABLE_NICE,
            access=Access(
                publishes=("fraud.verdict.>", "$KV.FRAUD_COSTS.analysts-simulated"),
                consumes=("FRAUD_REVIEWS",),
                reads=("FRAUD_VERDICTS",),
                makes=("FRAUD_REVIEWS", "KV_FRAUD_COSTS"),
                watches=("FRAUD_COSTS",),
                keeps=("SIMULATED_TRUTH",),
            ),
        ),
        Process(
            "monitor",
            "services.fraud.monitoring.drift",
            7,
            DEFERRABLE_NICE,
            access=Access(
                publishes=("alerts.fraud.>",),
                consumes=("FRAUD_DECISIONS",),
                makes=("ALERTS",),
                keeps=("bookmarks",),
                loads=("lake",),
                stores=("lake/fraud", "lake/reports/fraud", "lake/monitor"),
            ),
        ),
        Process(
            "reasons",
            "services.fraud.reasons.worker",
            12,
            DEFERRABLE_NICE,
            access=Access(
                redis="read",
                publishes=("alerts.fraud.>",),
                consumes=("FRAUD_DECISIONS",),
                makes=("ALERTS",),
                keeps=("fraud_reasons",),
                loads=("lake",),
                stores=("lake/fraud",),
            ),
        ),
    ),
    first_candidate=_FIRST_CANDIDATE,
    traffic_rate=200.0,
    load_rate=500,
    drifts=("covariate", "holiday", "null_device", "concept"),
    protocol="handbook",
    commands=(
        "rules",
        "costs",
        "review",
        "why",
        "replay",
        "drill",
        "bench",
        "rebuild",
        "backfill",
        "federate",
        "deploy",
    ),
    figures={
        "problem": _cost,
        "ingestion": _ingestion,
        "features": _features,
        "candidates": _candidates,
        "serving": _serving,
        "monitoring": _monitoring,
        "privacy": _privacy,
    },
    problem=_problem,
    bootstrap=_bootstrap,
    simulate=_simulate,
    train=_train,
    retraining_spec=_retraining_spec,
    compare=_compare,
    newest=_newest,
    benchmark_drifts=_benchmark_drifts,
    evaluate=_evaluate,
    demo=_demo,
    walkthrough=_walkthrough,
    walkthrough_access=Access(
        publishes=("fraud.tx.>", "fraud.label.>", "fraud.verdict.>"),
        listens=("fraud.decision.>",),
        reads=("FRAUD", "FRAUD_DECISIONS", "FRAUD_REVIEWS", "FRAUD_VERDICTS"),
        deletes=("FRAUD_REVIEWS",),
        watches=("FRAUD_COSTS", "fraud_reasons"),
    ),
    simulator_access=Access(
        publishes=("fraud.tx.>", "fraud.label.>"),
        reads=("FRAUD_VERDICTS",),
        keeps=("simulator", "SIMULATED_TRUTH"),
        tokens=("client_token",),
    ),
    capacity=_capacity,
    lake_tables=_lake_tables,
    expire=_expire,
    audit=_audit,
    damage=_damage,
)
