"""What one core of each part does, measured (docs/performance.md), for the planner."""

from services.platform.capacity.parts import Capacity, Measured, Part
from services.platform.settings import Settings


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
            ),
        ),
        notes=(
            "rates of NATS and the lake writer are those of the fraud design",
            "the object store's own cores and disks are left out: images differ in size",
        ),
    )
