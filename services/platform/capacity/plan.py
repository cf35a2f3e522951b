"""From a demand and measured parts to instances, money, and what breaks first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.platform.capacity.parts import EUR_PER_USD, FAMILIES, Capacity, Case, Family, Part
from services.platform.capacity.staffing import (
    STREAM_UTILISATION,
    servers_needed,
    square_root_staffing,
    wait_quantile_s,
)

ZONES = 3
# Decisions a second, and the factor of their peak; greater ones are typing errors.
MAX_RATE, MAX_PEAK = 1e7, 100.0
_MONTH_S = 365.25 * 86_400 / 12


@dataclass(frozen=True)
class Demand:
    """What is asked for.

    Attributes:
        rate: Decisions a second, on average.
        peak: Factor of the peak.
        slo_ms: Bound of the p95 of a decision.
        zones_lost: 0, or 1: the rest must carry the peak.
        entities: Customers with a state; 0: the design's usual number.
    """

    rate: float
    peak: float = 2.0
    slo_ms: float = 50.0
    zones_lost: int = 0
    entities: int = 0


@dataclass(frozen=True)
class Row:
    """One part of a plan.

    Attributes:
        rate_per_core: Units a second of one core: worst, usual and best case.
        load: Units a second at the peak.
        cores: Cores at the peak, with the headroom of staffing.
        instances: Instances that carry it.
        provisioned: Instances with those that stand in for a lost zone, and replicas.
        memory_gb, disk_gb, network_mbit: Of all instances; the network at the peak.
        binds: What decides the number of instances.
        breaks_at: Decisions a second at which the part cannot grow on; infinite if it can.
        source: Command and date of its rate.
    """

    part: str
    unit: str
    rate_per_core: tuple[float, float, float]
    load: float
    cores: float
    instances: int
    provisioned: int
    memory_gb: float
    disk_gb: float
    network_mbit: float
    binds: str
    breaks_at: float
    source: str


@dataclass(frozen=True)
class Cost:
    """A plan's machines of one family."""

    family: str
    machines: int
    binds: str
    eur_a_month: float
    eur_per_million: float
    price: str


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
        p95_ms: Of a decision at the peak, by the parts.
        first: The part that breaks first, and where.
        unmet: What cannot be met, a sentence each; empty if it can.
    """

    rows: list[Row]
    costs: list[Cost]
    p95_ms: float
    first: str
    unmet: list[str]
    notes: tuple[str, ...] = ()


def plan(
    capacity: Capacity,
    demand: Demand,
    case: Case = "mid",
    families: Sequence[Family] = FAMILIES,
) -> Plan:
    """Plan for a demand.

    Raises:
        ValueError: the demand makes no sense.
    """
    if not (0 < demand.rate <= MAX_RATE and 1 <= demand.peak <= MAX_PEAK):
        raise ValueError(
            f"{demand.rate:g} a second, peak {demand.peak:g}: the rate must be above 0 and at most "
            f"{MAX_RATE:,.0f}, the peak from 1 to {MAX_PEAK:.0f}"
        )
    if not 0 < demand.slo_ms < math.inf:
        raise ValueError(f"an SLO of {demand.slo_ms:g} ms: it must be above 0")
    if demand.zones_lost not in (0, 1):
        raise ValueError(f"{demand.zones_lost} zones lost: of {ZONES}, none or one can be")
    rows = [_row(part, capacity, demand, case) for part in capacity.parts]
    p95 = _p95_ms(capacity, rows, case)
    limited = [row for row in rows if math.isfinite(row.breaks_at)]
    first = min(limited, key=lambda row: row.breaks_at, default=None)
    return Plan(
        rows=rows,
        costs=[_cost(family, rows, demand) for family in families],
        p95_ms=p95,
        first="" if first is None else f"{first.part} at {first.breaks_at:,.0f} {capacity.unit}/s",
        unmet=_unmet(capacity, rows, demand, p95),
        notes=capacity.notes,
    )


def _row(part: Part, capacity: Capacity, demand: Demand, case: Case) -> Row:
    load = demand.rate * demand.peak * part.per_decision
    service_s = part.us.of(case) / 1e6
    erlangs = load * service_s
    needed = {"cores": _cores(part, erlangs, service_s, demand) / part.instance_cores}
    if part.unit_rate:
        needed["disk flushes"] = load / part.unit_rate
    binds = max(needed, key=lambda name: needed[name])
    instances = max(math.ceil(needed[binds] - 1e-9), 1)
    if part.max_instances and instances > part.max_instances:
        binds = "instances"
    entities = demand.entities or capacity.entities
    kept_mb = entities * part.memory_bytes_per_entity / 1e6
    provisioned = _with_spare(instances, demand.zones_lost) * part.replicas
    seconds_kept = part.disk_days * 86_400
    return Row(
        part=part.name,
        unit=part.unit,
        rate_per_core=(1e6 / part.us.high, 1e6 / part.us.mid, 1e6 / part.us.low),
        load=load,
        cores=needed["cores"] * part.instance_cores,
        instances=instances,
        provisioned=provisioned,
        memory_gb=(provisioned * part.memory_mb + kept_mb * part.replicas) / 1e3,
        disk_gb=demand.rate * part.disk_bytes * seconds_kept * part.replicas / 1e9,
        network_mbit=demand.rate * demand.peak * part.network_bytes * 8 / 1e6,
        binds=binds,
        breaks_at=_breaks_at(part, service_s),
        source=f"{part.us.command}, {part.us.date}",
    )


def _cores(part: Part, erlangs: float, service_s: float, demand: Demand) -> float:
    if not part.waits:
        return erlangs / STREAM_UTILISATION
    spare_s = max(demand.slo_ms - part.floor_ms, 0.0) / 1e3
    waiting = servers_needed(erlangs, service_s, spare_s / 2) if spare_s else math.ceil(erlangs)
    return max(waiting, square_root_staffing(erlangs))


def _with_spare(instances: int, zones_lost: int) -> int:
    """Instances over all zones, so many that the remaining zones carry the load.

    >>> _with_spare(4, 1), _with_spare(4, 0)
    (6, 4)
    """
    if not zones_lost:
        return instances
    return math.ceil(instances / (ZONES - zones_lost)) * ZONES


def _breaks_at(part: Part, service_s: float) -> float:
    """Decisions a second that all instances that there can be carry."""
    if not part.max_instances:
        return math.inf
    usable = 1.0 if part.waits else STREAM_UTILISATION
    units = part.max_instances * part.instance_cores * usable / service_s
    if part.unit_rate:
        units = min(units, part.max_instances * part.unit_rate)
    return units / part.per_decision


def _p95_ms(capacity: Capacity, rows: Sequence[Row], case: Case) -> float:
    """The floor of a request and the waits on its way; p95s are added, so it is an upper bound."""
    total = 0.0
    for part, row in zip(capacity.parts, rows, strict=True):
        if part.waits:
            service_s = part.us.of(case) / 1e6
            servers = max(int(row.instances * part.instance_cores), 1)
            wait_s = wait_quantile_s(row.load * service_s, servers, service_s)
            total += part.floor_ms + wait_s * 1e3
    return total


def _unmet(capacity: Capacity, rows: Sequence[Row], demand: Demand, p95_ms: float) -> list[str]:
    found = [
        f"{row.part}: {row.instances} instances are needed and {part.max_instances} can share the "
        f"load ({part.bound}); it holds to {row.breaks_at:,.0f} {capacity.unit}/s"
        for part, row in zip(capacity.parts, rows, strict=True)
        if part.max_instances and row.instances > part.max_instances
    ]
    floor = sum(part.floor_ms for part in capacity.parts if part.waits)
    if floor >= demand.slo_ms:
        slowest = max(capacity.parts, key=lambda part: part.floor_ms)
        found.append(
            f"{slowest.name}: a request takes {floor:.1f} ms (p95) without any load, more than "
            f"{demand.slo_ms:g} ms: more instances do not help"
        )
    elif p95_ms > demand.slo_ms:
        found.append(f"a decision takes {p95_ms:.1f} ms (p95) at the peak: no headroom is left")
    return found


def _cost(family: Family, rows: Sequence[Row], demand: Demand) -> Cost:
    spare = [row.provisioned / row.instances for row in rows]
    cores = sum(row.cores * factor for row, factor in zip(rows, spare, strict=True))
    needed = {
        "cores": cores / family.cores,
        "memory": sum(row.memory_gb for row in rows) / family.memory_gb,
    }
    binds = max(needed, key=lambda name: needed[name])
    machines = max(math.ceil(needed[binds] - 1e-9), ZONES if demand.zones_lost else 1)
    month = machines * family.usd_a_year * EUR_PER_USD / 12
    return Cost(
        family=family.name,
        machines=machines,
        binds=binds,
        eur_a_month=month,
        eur_per_million=month / (demand.rate * _MONTH_S / 1e6),
        price=f"{family.usd_a_year:,.0f} USD a year, read {family.date}: {family.source}",
    )
