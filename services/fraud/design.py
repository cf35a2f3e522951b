"""The fraud design's wiring: its processes, and the figure that each step is known by."""

from services.platform.design import LAST, NEXT, Design, Measured, Service
from services.platform.settings import Settings


def _money(minor: float) -> str:
    return f"{minor / 100:,.0f} EUR"


def _problem(m: Measured) -> str:
    return f"cost {_money(m['cost'])}, approving all {_money(m['cost_approve_all'])}"


def _ingestion(m: Measured) -> str:
    return f"{m['requests']:,} transactions at {m['rate']:.0f}/s, {m['lost']} decisions lost"


def _features(m: Measured) -> str:
    return f"readable after {m['freshness_p50_ms']:.0f} ms (p99 {m['freshness_p99_ms']:.0f} ms)"


def _candidates(m: Measured) -> str:
    return f"{m['model']}: precision {m['precision']:.2f}, recall {m['recall']:.2f}"


def _serving(m: Measured) -> str:
    return f"p50 {m['p50_ms']:.1f} ms, p95 {m['p95_ms']:.1f} ms, p99 {m['p99_ms']:.1f} ms"


def _monitoring(m: Measured) -> str:
    return f"{m['vectors']:,} vectors audited, {m['mismatches']} mismatches"


DESIGN = Design(
    name="fraud",
    title="Real-time fraud detection",
    package="services.fraud",
    first_candidate="xgboost",
    figures={
        "problem": _problem,
        "ingestion": _ingestion,
        "features": _features,
        "candidates": _candidates,
        "serving": _serving,
        "monitoring": _monitoring,
    },
)


def services(settings: Settings) -> list[Service]:
    """The design's processes."""
    scorer = (
        "services.fraud.serving.app:create_app", "--factory", "--host", settings.host,
        "--port", str(settings.scorer_port),
        "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
    )  # fmt: skip
    port = settings.metrics_port
    return [
        Service("scorer", "uvicorn", scorer, {"scorer_port": settings.scorer_port}),
        Service(
            "feature-worker", "services.fraud.features.worker", (), {"metrics_port": port}, NEXT
        ),
        Service(
            "lake-writer",
            "services.fraud.ingestion.lake_writer",
            (),
            {"metrics_port": port + 1},
            LAST,
        ),
        Service("shadow", "services.fraud.monitoring.shadow", (), {"metrics_port": port + 2}, LAST),
        Service("monitor", "services.fraud.monitoring.drift", (), {"metrics_port": port + 7}, LAST),
    ]
