"""The inspection design's wiring: its processes, its commands' functions, each step's figure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from services.cv_inspection.service import INSPECTOR
from services.platform.access import Access
from services.platform.design import DEFERRABLE_NICE, WORKER_NICE, Design, Process
from services.platform.hooks import (
    Damage,
    Demo,
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

    from services.cv_inspection.features.labelled_images import SplitSource
    from services.cv_inspection.retraining.retention import Expired
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

_FIRST_CANDIDATE = "efficientnet"


def _problem() -> Problem:
    from services.cv_inspection.problem import LATENCY_BUDGET_MS, CostModel

    return Problem(CostModel(), LATENCY_BUDGET_MS)


def _bootstrap(config: Settings, seed: int, days: int, bar: ProgressBar) -> bool:
    """`days` is not used: images have no history of events."""
    from services.cv_inspection.simulator.bootstrap import bootstrap

    return bootstrap(config, _FIRST_CANDIDATE, seed, bar)


def _simulate(config: Settings, request: TrafficRequest, bar: ProgressBar) -> Figures:
    from services.cv_inspection.evaluation.live import simulate

    return simulate(config, request, bar)


def _train(
    config: Settings, candidate: str, seed: int, bar: ProgressBar, folder: LabelledFolder | None
) -> "RegisteredModel":
    from services.cv_inspection.retraining.recipe import recipe
    from services.cv_inspection.retraining.training import (
        folder_split,
        learns_from_good_only,
        train,
    )
    from services.cv_inspection.simulator.labelled_images import HISTORY

    if folder is None:
        return train(config, candidate, seed, bar, HISTORY.split)
    good_only = learns_from_good_only(candidate)
    overrides = recipe(candidate, folder.epochs, folder.image_size)
    source: SplitSource = partial(folder_split, folder.path, folder.group_by, good_only)
    return train(config, candidate, seed, bar, source, overrides)


def _retraining_spec() -> "RetrainingSpec[Any, Any]":
    from services.cv_inspection.retraining.plan import retraining_spec
    from services.cv_inspection.simulator.labelled_images import HISTORY

    return retraining_spec(HISTORY)


def _compare(
    config: Settings, seeds: list[int], bar: ProgressBar, serve: "ServeFiles"
) -> "tuple[Sequence[CandidateResult], ComparisonLabels]":
    from services.cv_inspection.evaluation.comparison import COMPARISON_LABELS, compare

    return compare(config, seeds, bar, serve), COMPARISON_LABELS


def _newest(lake: "Lake", count: int, where: "pc.Expression | None") -> "tuple[int, Floats]":
    from services.cv_inspection.monitoring.newest import newest

    return newest(lake, count, where)


def _benchmark_drifts(
    config: Settings,
    seeds: list[int],
    drifts: Sequence[tuple[str, float]],
    step: ProgressCallback,
) -> DriftBenchmarkResult:
    """Asks the champion. FileNotFoundError: there is none."""
    from monitoring.drift_benchmark import run_benchmark
    from services.cv_inspection.evaluation.drift_benchmark import streams
    from services.cv_inspection.model import read_model
    from services.platform.models.served_file import get_served

    champion = read_model(get_served(config, INSPECTION.name))
    return run_benchmark(streams(champion, seeds, drifts, step))


def _evaluate(request: EvaluationRequest, bar: ProgressBar) -> Evaluation:
    from services.cv_inspection.evaluation.cross_validation.protocols import evaluation

    return evaluation(request, bar)


def _demo() -> Demo:
    from services.cv_inspection.evaluation import live

    return Demo(live.demo, live.demo_failures, live.demo_table)


def _damage(config: Settings, since: datetime, until: datetime) -> Damage:
    from services.cv_inspection.evaluation.damage import damage

    return damage(config, since, until)


def _money_view() -> Money:
    from services.cv_inspection.evaluation.money import MONEY

    return MONEY


def _capacity(config: Settings) -> "Capacity":
    from services.cv_inspection.serving.capacity import capacity

    return capacity(config)


def _lake_tables() -> "Mapping[str, pa.Schema]":
    from services.cv_inspection.ingestion.tables import SCHEMAS
    from services.platform.retraining.shadow import SHADOW_SCHEMA, shadow_table

    return {**SCHEMAS, shadow_table(INSPECTION.name): SHADOW_SCHEMA}


def _expire(config: Settings, bar: ProgressBar) -> "Expired":
    from services.cv_inspection.retraining.retention import expire

    return expire(config, bar)


def _walkthrough() -> Walkthrough:
    from services.cv_inspection.diagram import DIAGRAM
    from services.cv_inspection.evaluation import walkthrough

    return Walkthrough(
        DIAGRAM,
        "image",
        walkthrough.follow,
        walkthrough.newest,
        walkthrough.label,
        _money_view,
    )


def _money(minor: float) -> str:
    return f"{minor / 100:,.0f} EUR"


def _cost(f: Figures) -> str:
    return f"cost {_money(f['cost'])}, passing all {_money(f['cost_pass_all'])}"


def _ingestion(f: Figures) -> str:
    return (
        f"{f['landed']:,} images through the store, result after {f['delay_p50_ms']:.0f} ms "
        f"(p95 {f['delay_p95_ms']:.0f} ms), {f['lost']} lost, {f['duplicates']} duplicates"
    )


def _candidates(f: Figures) -> str:
    return f"{f['model']}: {f['escapes']} of {f['defects']} defects escaped"


def _serving(f: Figures) -> str:
    return (
        f"{f['post_rate']:.0f} images/s posted: p50 {f['p50_ms']:.1f} ms, "
        f"p95 {f['p95_ms']:.1f} ms, p99 {f['p99_ms']:.1f} ms"
    )


INSPECTION = Design(
    name="cv",
    title="Visual quality inspection",
    package="services.cv_inspection",
    http=INSPECTOR,
    processes=(
        Process(
            "inspection-worker",
            "services.cv_inspection.serving.worker",
            4,
            WORKER_NICE,
            access=Access(
                publishes=("cv.image.>", "cv.inspection.>", "cv.dead.>"),
                consumes=("CV",),
                watches=("models",),
                loads=("lake", "inbox", "results"),
                stores=("results",),
            ),
        ),
        Process(
            "cv-lake-writer",
            "services.cv_inspection.ingestion.lake_writer",
            5,
            DEFERRABLE_NICE,
            access=Access(
                publishes=("cv.dead.>",), consumes=("CV", "CV_DECISIONS"), stores=("lake/cv",)
            ),
        ),
        Process(
            "cv-shadow",
            "services.cv_inspection.monitoring.shadow",
            6,
            DEFERRABLE_NICE,
            access=Access(
                consumes=("CV_DECISIONS",),
                watches=("models",),
                loads=("lake", "inbox"),
                stores=("lake/cv",),
            ),
        ),
        Process(
            "cv-monitor",
            "services.cv_inspection.monitoring.drift",
            8,
            DEFERRABLE_NICE,
            access=Access(
                publishes=("alerts.cv.>",),
                consumes=("CV_DECISIONS",),
                makes=("ALERTS",),
                keeps=("bookmarks",),
                loads=("lake",),
                stores=("lake/cv", "lake/reports/cv", "lake/monitor"),
            ),
        ),
    ),
    first_candidate=_FIRST_CANDIDATE,
    traffic_rate=4.0,
    load_rate=20,
    drifts=("blur", "exposure", "new_defect"),
    protocol="magnetic_tile",
    more_protocols=("grouped",),
    commands=("batch", "reconcile", "edge", "suspects"),
    absent={
        "audit": "an image's features are its pixels: nothing is stored that could differ",
        "deploy": "one process serves it, and `whiteboard down` and `up` restart it",
        "drill": "`whiteboard night cv` retrains the inspector",
        "replay": "`whiteboard train cv --data FOLDER` and `batch cv` take files",
    },
    figures={
        "problem": _cost,
        "ingestion": _ingestion,
        "candidates": _candidates,
        "serving": _serving,
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
    damage=_damage,
    walkthrough=_walkthrough,
    walkthrough_access=Access(
        publishes=("cv.verdict.>",),
        listens=("cv.image.>", "cv.inspection.>"),
        reads=("CV_DECISIONS",),
        stores=("inbox",),
    ),
    simulator_access=Access(
        consumes=("CV_DECISIONS",),
        keeps=("simulator",),
        stores=("inbox",),
        tokens=("client_token", "label_token"),
    ),
    capacity=_capacity,
    lake_tables=_lake_tables,
    expire=_expire,
)
