"""What one core of each part does, measured (docs/performance.md), for the planner."""

from services.platform.capacity.parts import Capacity, Measured, Part
from services.platform.settings import Settings

# Measured on the demo's 1,008 images, 2026-11-29: image 19,230 bytes, result, mask and map 8,328.
_STORE_BYTES = 19_230 + 8_328
# A row of inspections and of labels in a file of a day, measured the same day.
_LAKE_BYTES = 62 + 25
# As `retraining.retention` keeps them.
_KEPT_DAYS = 180


def capacity(config: Settings) -> Capacity:
    """The parts of an image's way; workers share one consumer, so any number can.

    The row of the inspection worker covers the inspector, too: an image is inspected once, by a
    worker or, if it was posted, by an inspector, and both do the same work. A whole image takes
    14 ms of a core (71 images a second), of which the network takes 5 to 6.
    """
    return Capacity(
        unit="images",
        parts=(
            Part(
                "inspection-worker",
                "images",
                # p50 of /inspect at 20/s, on a quiet and a busy host; 300 images in 3 s on 2 cores.
                Measured(10_000, 14_000, 20_000, "whiteboard load cv, batch cv", "2026-11-26"),
                waits=True,
                memory_mb=450,
                disk_bytes=_STORE_BYTES,
                disk_days=_KEPT_DAYS,
                network_bytes=2 * 60_000,
                floor_ms=15.0,
            ),
            Part(
                "nats",
                "messages",
                Measured(140, 250, 530, "whiteboard bench score", "2026-11-26"),
                # The store's event and the published inspection.
                per_decision=2,
                instance_cores=2,
                max_instances=1,
                bound="one stream of images",
                unit_rate=2_300,
                replicas=3,
                memory_mb=143,
            ),
            Part(
                "cv-lake-writer",
                "rows",
                Measured(130, 175, 220, "whiteboard bench score", "2026-11-26"),
                max_instances=1,
                bound="one process reads the stream in order; it has no shards",
                memory_mb=373,
                disk_bytes=_LAKE_BYTES,
                disk_days=_KEPT_DAYS,
            ),
        ),
        notes=(
            "rates of NATS and the lake writer are those of the fraud design",
            "the object store's own cores are left out; the disk of the inspection workers is the "
            "store's: the demo's images of 128 px with their results, 28 KB each, one copy; larger "
            "images take as much more",
            "NATS keeps at most 4.3 GB a stream and copy",
        ),
    )
