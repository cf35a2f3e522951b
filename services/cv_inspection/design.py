"""The inspection design's wiring: its processes, and the figure that each step is known by."""

from services.platform.design import LAST, NEXT, Design, Measured, Service
from services.platform.settings import Settings


def _money(minor: float) -> str:
    return f"{minor / 100:,.0f} EUR"


def _problem(m: Measured) -> str:
    return f"cost {_money(m['cost'])}, passing all {_money(m['cost_pass_all'])}"


def _ingestion(m: Measured) -> str:
    return (
        f"{m['landed']:,} pictures through the store, told after {m['delay_p50_ms']:.0f} ms "
        f"(p95 {m['delay_p95_ms']:.0f} ms), {m['lost']} lost, {m['duplicates']} twice"
    )


def _candidates(m: Measured) -> str:
    return f"{m['model']}: {m['escapes']} of {m['defects']} defects escaped"


def _serving(m: Measured) -> str:
    return (
        f"{m['post_rate']:.0f} pictures/s posted: p50 {m['p50_ms']:.1f} ms, "
        f"p95 {m['p95_ms']:.1f} ms, p99 {m['p99_ms']:.1f} ms"
    )


DESIGN = Design(
    name="cv",
    title="Visual quality inspection",
    package="services.cv_inspection",
    first_candidate="efficientnet",
    figures={
        "problem": _problem,
        "ingestion": _ingestion,
        "candidates": _candidates,
        "serving": _serving,
    },
)


def services(settings: Settings) -> list[Service]:
    """The design's processes."""
    inspector = (
        "services.cv_inspection.serving.app:create_app", "--factory", "--host", settings.host,
        "--port", str(settings.inspector_port),
        "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning",
    )  # fmt: skip
    port = settings.metrics_port
    names = ("serving.worker", "ingestion.lake_writer", "monitoring.shadow", "monitoring.drift")
    worker, writer, shadow, monitor = (f"services.cv_inspection.{name}" for name in names)
    return [
        Service("inspector", "uvicorn", inspector, {"inspector_port": settings.inspector_port}),
        Service("inspection-worker", worker, (), {"metrics_port": port + 4}, NEXT),
        Service("cv-lake-writer", writer, (), {"metrics_port": port + 5}, LAST),
        Service("cv-shadow", shadow, (), {"metrics_port": port + 6}, LAST),
        Service("cv-monitor", monitor, (), {"metrics_port": port + 8}, LAST),
    ]
