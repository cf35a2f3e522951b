"""What each process needs of a cluster: image, requests and limits, and how it scales.

Requests come from measurements (docs/performance.md, `whiteboard plan`). Memory limits are those of
docker-compose.yml, under which every container was killed and recovered (docs/compose.md). A
process that has no size here is refused.
"""

from dataclasses import dataclass
from typing import Literal

Image = Literal["serve", "train"]
# any: replicas share the work; one: it reads a stream in order, and has one owner; shards: as one,
# but replicas share the rows by shard.
Scaling = Literal["any", "one", "shards"]


@dataclass(frozen=True)
class Size:
    """Requests and limits of a container.

    Attributes:
        cpu: Requested, millicores. Requests are also the weights by which busy processes share a
            node, so they keep the order of the nice values of `up`.
        cpu_limit: Millicores.
        memory: Requested, MiB.
        memory_limit: MiB.
        source: Where the figures come from.
    """

    cpu: int
    cpu_limit: int
    memory: int
    memory_limit: int
    source: str


@dataclass(frozen=True)
class Workload:
    """How a process runs.

    Attributes:
        size: Requests and limits.
        scaling: See `Scaling`.
        image: "train" has the training libraries.
        command: Its command line behind the process's name.
        trains: Its jobs have the operator's account, too.
        cpu_target: Per cent of the requested processor time that an autoscaler keeps; 0: none.
        stream: Stream and durable consumer whose backlog an autoscaler keeps; empty: none.
        backlog: Messages a replica, of that backlog.
    """

    size: Size
    scaling: Scaling = "one"
    image: Image = "serve"
    command: tuple[str, ...] = ()
    trains: bool = False
    cpu_target: int = 0
    stream: tuple[str, str] | tuple[()] = ()
    backlog: int = 0


_TEN_MINUTES = "`whiteboard load fraud --rate 200 --duration 600`, 2026-11-27"
_PER_DECISION = "`whiteboard bench score`, 2026-11-26"
# Resident memory of a process that has just started, without a model and traffic: a lower bound.
_STARTED = "MB just started, 2026-11-27; half of Compose's limit"
_COMPOSE_ONLY = "not measured alone: half of Compose's limit"

# One event loop: one core is requested, and the second is for what runs in threads. At .63 ms a
# request, 972/s fill 61 % of a core (p95 3 ms), 1,221/s 77 % (7 ms), 1,525/s 96 % (57 ms).
_SCORER = Size(1000, 2000, 512, 768, f"350 MB: {_TEN_MINUTES}; .63 ms a request: {_PER_DECISION}")
_INSPECTOR = Size(500, 2000, 512, 768, "14 ms an image: `whiteboard load cv --rate 20`, 2026-11-26")
# 71 images/s a core, so 140 waiting are two seconds of a worker.
_INSPECTION = Size(500, 1000, 512, 768, "450 MB, 14 ms an image: `whiteboard plan cv`, 2026-11-27")
_LIGHT = Size(50, 1000, 192, 384, f"150 {_STARTED}")
# The command that trains peaked at 3.5 GB (`make demo`, 2026-11-26).
TRAINING = Size(1000, 2000, 4096, 6144, "3.5 GB at its peak: `make demo`, 2026-11-26")
REGISTRY = Size(50, 1000, 512, 1024, _COMPOSE_ONLY)
SIMULATOR = Size(100, 1000, 512, 1024, _COMPOSE_ONLY)

WORKLOADS = {
    "scorer": Workload(_SCORER, "any", cpu_target=60),
    "feature-worker": Workload(
        Size(250, 1000, 384, 768, f"298 MB: {_TEN_MINUTES}; 125 us an event: `bench stream`"),
        "shards",
    ),
    "lake-writer": Workload(
        Size(250, 1000, 512, 768, f"373 MB: {_TEN_MINUTES}; 175 us a row: {_PER_DECISION}")
    ),
    "shadow": Workload(
        Size(50, 1000, 384, 768, f"3 us a decision: {_PER_DECISION}; 249 {_STARTED}")
    ),
    "reasons": Workload(Size(100, 1000, 384, 768, f"247 {_STARTED}")),
    "review-desk": Workload(_LIGHT),
    "analysts": Workload(_LIGHT),
    "monitor": Workload(
        Size(50, 1000, 512, 768, f"401 MB: {_TEN_MINUTES}; 75 us a decision: {_PER_DECISION}"),
        image="train",
    ),
    "inspector": Workload(_INSPECTOR, "any", cpu_target=60),
    "inspection-worker": Workload(
        _INSPECTION, "any", stream=("CV", "inspection-workers"), backlog=140
    ),
    "cv-lake-writer": Workload(Size(50, 1000, 256, 512, f"157 {_STARTED}")),
    "cv-shadow": Workload(Size(50, 1000, 256, 512, f"181 {_STARTED}")),
    "cv-monitor": Workload(Size(50, 1000, 384, 768, f"278 {_STARTED}"), image="train"),
    "scheduler": Workload(TRAINING, image="train", command=("whiteboard",), trains=True),
}


def workload(name: str) -> Workload:
    """How a process runs. KeyError says what to do where it has no size."""
    try:
        return WORKLOADS[name]
    except KeyError:
        raise KeyError(f"no size for {name!r}: add it to infra/kubernetes/sizes.py") from None
