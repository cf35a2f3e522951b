"""Request bodies as the simulator draws them, no transaction twice, no card hotter than in life."""

from collections.abc import Iterator

from services.fraud.simulator.tables import transaction
from services.fraud.simulator.traffic import Traffic

# A world of its own: a load test's purchases are no part of the simulated one's history, but its
# customers, merchants and devices are those that the store knows.
_SEED = 7
_FIRST_DAY = 30


def bodies(most: int | None = None, loader: int = 0) -> Iterator[bytes]:
    """JSON bodies of `/score`, for ever or so many.

    Args:
        loader: Which of several that load together; each draws purchases of its own.
    """
    traffic, number, made = Traffic(_SEED + loader), _FIRST_DAY, 0
    while True:
        day = traffic.day(number)
        for index in range(len(day.amount)):
            if made == most:
                return
            yield transaction(day, index).model_dump_json().encode()
            made += 1
        number += 1
