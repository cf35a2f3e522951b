"""How many servers a load needs: square-root staffing.

Offered load a = rate / rate of one server, in erlangs. With a servers all are busy and the queue
grows without end; c = a + beta sqrt(a) keeps the wait short, and beta hardly depends on the size
(Halfin and Whitt, "Heavy-Traffic Limits for Queues with Many Exponential Servers", 1981). So the
headroom that 5 servers need as a share is more than that of 500.
"""

import math
from bisect import bisect_left

# A stream's consumer may be late; beyond this share its backlog after a pause takes hours.
STREAM_UTILISATION = 0.7


def wait_probability(load: float, servers: int) -> float:
    """Probability that a request waits at all (Erlang C), computed without overflow.

    Args:
        load: Offered load, erlangs.
        servers: Servers.

    >>> round(wait_probability(8.0, 10), 3), wait_probability(8.0, 8)
    (0.409, 1.0)
    """
    if load >= servers:
        return 1.0
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    busy = load / servers
    return blocked / (1.0 - busy + busy * blocked)


def wait_quantile_s(load: float, servers: int, service_s: float, quantile: float = 0.95) -> float:
    """The wait that a share `quantile` of the requests does not exceed, seconds (M/M/c).

    >>> wait_quantile_s(0.5, 1, 0.001) < 0.005 < wait_quantile_s(0.99, 1, 0.001)
    True
    """
    if load >= servers:
        return math.inf
    waits = wait_probability(load, servers)
    if waits <= 1.0 - quantile:
        return 0.0
    return math.log(waits / (1.0 - quantile)) * service_s / (servers - load)


def servers_needed(load: float, service_s: float, wait_s: float) -> int:
    """The fewest servers whose p95 wait is at most `wait_s` seconds.

    >>> servers_needed(67.0, 0.0006, 0.002), servers_needed(0.0, 0.0006, 0.002)
    (68, 1)
    """
    # With load + 3 sqrt(load) servers less than 5 % of the requests wait: their p95 wait is 0.
    few, enough = max(math.ceil(load), 1), square_root_staffing(load, 3.0) + 1
    return bisect_left(
        range(enough), True, few, key=lambda n: wait_quantile_s(load, n, service_s) <= wait_s
    )


def square_root_staffing(load: float, beta: float = 1.0) -> int:
    """C = a + beta sqrt(a): the least that a request path gets, whatever its service time.

    With beta 1 about a fifth of the requests wait at all.

    >>> square_root_staffing(100.0), square_root_staffing(4.0)
    (110, 6)
    """
    return max(math.ceil(load + beta * math.sqrt(load)), 1)


def knee(us: float, cores: float, slo_ms: float) -> float:
    """The rate at which the p95 of one queue passes `slo_ms`, a second (M/M/1).

    Args:
        us: Processor time of a request, microseconds.
        cores: Cores that serve it.
        slo_ms: Bound of the p95.

    >>> round(knee(650, 1, 50)), knee(650, 1, 0.001)
    (1479, 0.0)
    """
    return max(cores * 1e6 / us - _margin(slo_ms), 0.0)


def knee_by_latency(rate: float, p95_ms: float, slo_ms: float) -> float:
    """The rate at which the p95 of a queue passes `slo_ms`, from its p95 at another rate (M/M/1).

    In an M/M/1 queue the time from arrival to answer is exponential with the rate capacity - load,
    so one quantile at a known load gives the capacity. What is measured this way includes what
    processor times do not show: waits for a core, a disk or another process.

    Args:
        rate: Requests a second while it was measured.
        p95_ms: Measured from request to answer, above 0.
        slo_ms: Bound of the p95.

    >>> round(knee_by_latency(400, 9.0, 50.0)), round(knee_by_latency(400, 50.0, 50.0))
    (673, 400)
    """
    return max(rate + _margin(p95_ms) - _margin(slo_ms), 0.0)


def _margin(p95_ms: float) -> float:
    """Capacity less load, a second, at which an M/M/1 queue has this p95."""
    return math.log(20.0) / (p95_ms / 1e3)
