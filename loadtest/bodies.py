"""Request bodies from the simulator: no transaction twice, realistic rates per card."""

from collections.abc import Iterator
from functools import lru_cache

from services.fraud.simulator.tables import transaction
from services.fraud.simulator.traffic import Traffic
from services.platform.runtime.tokens import synthetic_headers
from services.platform.settings import settings

# The customers, merchants and devices are those of the online store; the transactions are not part
# of the backfill.
_SEED = 7
_FIRST_DAY = 30


def bodies(max_count: int | None = None, worker: int = 0) -> Iterator[bytes]:
    """JSON bodies for `/score`.

    Args:
        max_count: Number of bodies; None for no end.
        worker: Index of the load generator; each gets transactions of its own.
    """
    traffic, number, count = Traffic(_SEED + worker), _FIRST_DAY, 0
    while True:
        day = traffic.day(number)
        for index in range(len(day.amount)):
            if count == max_count:
                return
            yield transaction(day, index).model_dump_json().encode()
            count += 1
        number += 1


@lru_cache(maxsize=1)  # asked for every request
def load_headers() -> dict[str, str]:
    """Headers of a load test's request, with this home's token for its mark."""
    token = settings().plain_label_token
    return {"Content-Type": "application/json", **synthetic_headers(token)}
