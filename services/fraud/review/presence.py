"""Who reviews at present: the capacity that the price of a slot depends on.

Analysts say in the bucket that they work; who has said nothing for a while counts no longer. Their
seconds a case set the queue's clock: simulated analysts work faster than people, as the simulated
day is faster.
"""

from time import monotonic, time

import orjson
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from services.fraud.problem import ANALYST_MINUTES
from services.fraud.review.live import open_bucket

SIMULATED_KEY, PEOPLE_KEY = "analysts-simulated", "analysts-people"
_VALID_S = {SIMULATED_KEY: 3.0, PEOPLE_KEY: 600.0}
_PEOPLE_SECONDS = ANALYST_MINUTES * 60.0


async def report_present(
    js: JetStreamContext, key: str, number: int, seconds_per_case: float = _PEOPLE_SECONDS
) -> None:
    """Say that some analysts work, and how long each needs for a case."""
    note = {"number": number, "seconds_per_case": seconds_per_case}
    await (await open_bucket(js)).put(key, orjson.dumps(note))


async def report_person(js: JetStreamContext, name: str) -> None:
    """Say that a person works; those who have said so lately count, each name once.

    Where two say so at the same instant, one of them may count only from the next time on.
    """
    bucket = await open_bucket(js)
    try:
        known = orjson.loads((await bucket.get(PEOPLE_KEY)).value or b"{}").get("seen", {})
    except NotFoundError:
        known = {}
    now = time()
    seen = {n: at for n, at in known.items() if now - at < _VALID_S[PEOPLE_KEY]} | {name: now}
    note = {"number": len(seen), "seconds_per_case": _PEOPLE_SECONDS, "seen": seen}
    await bucket.put(PEOPLE_KEY, orjson.dumps(note))


class Presence:
    """The analysts at work.

    Attributes:
        analysts: How many.
        seconds_per_case: Of those seen last; a person's before any.
    """

    def __init__(self) -> None:
        self.seconds_per_case = _PEOPLE_SECONDS
        self.analysts = 0.0
        self._seen: dict[str, tuple[int, float]] = {}

    async def update(self, bucket: KeyValue) -> None:
        """Read who works."""
        self.analysts = 0.0
        for key, valid_s in _VALID_S.items():
            try:
                entry = await bucket.get(key)
            except NotFoundError:
                continue
            revision, since = self._seen.get(key, (0, 0.0))
            if entry.revision != revision:
                since = monotonic()
                self._seen[key] = (entry.revision or 0, since)
            note = orjson.loads(entry.value or b"{}")
            if monotonic() - since < valid_s:
                self.analysts += note["number"]
                self.seconds_per_case = note["seconds_per_case"]
            elif key == SIMULATED_KEY and self.analysts == 0:
                self.seconds_per_case = note["seconds_per_case"]
