"""What one core of each part does, measured (docs/performance.md), for the planner."""

from services.fraud.features.states import FEATURES
from services.platform.capacity.parts import Capacity, Measured, Part
from services.platform.settings import Settings

_SCORE = "whiteboard bench score"
# What the simulated population has; `--entities` plans for another number.
_CUSTOMERS = 1_000_000
# A transaction and its label in a file of a day, measured 2026-11-27 (31.5 and 21.4 bytes a row);
# and the vector of a decision, computed.
_LAKE_BYTES = 53.0 + 8 * len(FEATURES)


def capacity(config: Settings) -> Capacity:
    """The parts of a decision's way; streams are shared by `config.shards` shards."""
    shards = config.shards
    return Capacity(
        unit="decisions",
        entities=_CUSTOMERS,
        parts=(
            Part(
                "scorer",
                "requests",
                Measured(294, 630, 940, f"{_SCORE}, bench growth, load fraud --knee", "2026-11-26"),
                waits=True,
                memory_mb=350,
                network_bytes=3_000,
                # p95 at 50 requests/s, `whiteboard bench waterfall`.
                floor_ms=3.0,
            ),
            Part(
                "redis",
                "reads",
                Measured(24, 36, 48, _SCORE, "2026-11-26"),
                waits=True,
                replicas=2,
                memory_mb=41,
                # 611 MB a million, `whiteboard bench growth`.
                memory_bytes_per_entity=611,
                network_bytes=2_000,
            ),
            Part(
                "nats",
                "messages",
                Measured(140, 250, 530, _SCORE, "2026-11-26"),
                # The transaction, its decision and its label.
                per_decision=3,
                instance_cores=2,
                max_instances=shards,
                bound=f"a stream per customer shard, WHITEBOARD_SHARDS={shards}",
                # Flushed in batches of 80.
                unit_rate=10_000,
                replicas=3,
                memory_mb=143,
                network_bytes=3 * 3 * 1_500,
            ),
            Part(
                "feature-worker",
                "events",
                Measured(56, 125, 160, "whiteboard bench stream", "2026-11-26"),
                # Transaction and label.
                per_decision=2,
                max_instances=1,
                bound="every worker reads every event: four hold 1.3 times what one does (ADR 23)",
                memory_mb=298,
                network_bytes=2 * 1_500,
            ),
            Part(
                "lake-writer",
                "rows",
                Measured(130, 175, 220, _SCORE, "2026-11-26"),
                per_decision=3,
                max_instances=1,
                bound="one process reads each stream in order; it has no shards",
                memory_mb=373,
                disk_bytes=_LAKE_BYTES,
                disk_days=180,
            ),
            Part(
                "monitor",
                "decisions",
                Measured(57, 75, 90, _SCORE, "2026-11-26"),
                max_instances=1,
                bound="one process cuts the windows; a sample of decisions would do",
                memory_mb=401,
            ),
        ),
        notes=(
            "a hot entity has one owner: its events must fit one core of a feature worker",
            "rules, reasons, the review desk, shadow mode and S3's own cores are left out",
            "memory of Redis counts customers' rows alone; disk is transaction and label as "
            "measured (53 bytes) and a decision's vector uncompressed, for 180 days; NATS keeps at "
            "most 4.3 GB a stream and copy",
        ),
    )
