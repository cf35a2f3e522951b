"""A part of a design as the planner sees it: what one core of it does, and what it keeps."""

from dataclasses import dataclass, field
from typing import Literal

# Cases of a measured figure: the best, the usual and the worst that was seen.
Case = Literal["low", "mid", "high"]


@dataclass(frozen=True)
class Measured:
    """Processor time of one unit, microseconds, and where the figure comes from."""

    low: float
    mid: float
    high: float
    command: str
    date: str

    def of(self, case: Case) -> float:
        """One of the three."""
        return float(getattr(self, case))


@dataclass(frozen=True)
class Part:
    """One kind of process or engine.

    Attributes:
        name: As processes are called.
        unit: What it handles.
        us: Processor time of a unit.
        per_decision: Units that one decision causes.
        waits: Whether a client waits for it; a stream's consumer may be late.
        instance_cores: Cores that one instance can use: 1 for an event loop.
        max_instances: Instances that can share the load; 0: any number.
        bound: What limits the instances, in words.
        unit_rate: Units a second of one instance besides processor time (a disk's flushes); 0: no
            such bound.
        replicas: Copies that keep the data when a zone is lost.
        memory_mb: Of an instance.
        memory_bytes_per_entity: Of what it keeps, by customer.
        disk_bytes: Kept a decision.
        disk_days: How long.
        network_bytes: In and out, a decision.
        floor_ms: p95 of a request without load; 0 where no request waits.
    """

    name: str
    unit: str
    us: Measured
    per_decision: float = 1.0
    waits: bool = False
    instance_cores: float = 1.0
    max_instances: int = 0
    bound: str = ""
    unit_rate: float = 0.0
    replicas: int = 1
    memory_mb: float = 300.0
    memory_bytes_per_entity: float = 0.0
    disk_bytes: float = 0.0
    disk_days: float = 0.0
    network_bytes: float = 0.0
    floor_ms: float = 0.0


@dataclass(frozen=True)
class Family:
    """An instance type with its price.

    Attributes:
        usd_a_year: Of one instance.
        source: Where the price comes from.
        date: When it was read.
    """

    name: str
    cores: int
    memory_gb: float
    usd_a_year: float
    source: str
    date: str


# An assumption, not a measurement.
EUR_PER_USD = 0.92
_SOURCE = (
    "three years reserved, us-east-1, in Netflix-Skunkworks/service-capacity-modeling, "
    "pricing/aws/3yr-reserved_ec2.json at a52b31f"
)
FAMILIES = (
    Family("c7a.2xlarge", 8, 16.0, 1378.0, _SOURCE, "2026-11-27"),
    Family("c7i.2xlarge", 8, 16.0, 1198.33, _SOURCE, "2026-11-27"),
)


@dataclass(frozen=True)
class Capacity:
    """What a design brings to the planner.

    Attributes:
        unit: What is decided.
        parts: Its parts.
        entities: Customers (or stations) that have a state.
        notes: What the figures leave out, a sentence each.
    """

    unit: str
    parts: tuple[Part, ...]
    entities: int = 0
    notes: tuple[str, ...] = field(default=())
