"""Who reviews at present: the capacity that the price of a slot depends on.

Analysts say in the bucket that they work; who has said nothing for a while counts no longer. Their
seconds a case set the queue's clock: simulated analysts work faster than people, as the simulated
day is faster.
"""

from math import inf
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
        self._revision: int | None = None
        self._since = -inf

    async def update(self, bucket: KeyValue) -> None:
        """Read who works."""
        simulated, people = await _read(bucket, SIMULATED_KEY), await _read(bucket, PEOPLE_KEY)
        self.analysts = self._simulated(simulated) + _at_work(people)
        # Without anybody, the queue keeps the clock of the simulated day.
        paced_by = people if _at_work(people) else simulated
        if paced_by is not None:
            note = orjson.loads(paced_by.value or b"{}")
            self.seconds_per_case = note["seconds_per_case"]

    def _simulated(self, entry: KeyValue.Entry | None) -> float:
        """Simulated analysts at work: they say so each second, so the note changes.

        The note that a desk finds when it starts may be of any time before.
        """
        revision = 0 if entry is None else entry.revision or 0
        if self._revision is not None and revision != self._revision:
            self._since = monotonic()
        self._revision = revision
        if entry is None or monotonic() - self._since >= _VALID_S[SIMULATED_KEY]:
            return 0.0
        return float(orjson.loads(entry.value or b"{}")["number"])


async def _read(bucket: KeyValue, key: str) -> KeyValue.Entry | None:
    try:
        return await bucket.get(key)
    except NotFoundError:
        return None


def _at_work(entry: KeyValue.Entry | None) -> int:
    """People who have said lately that they work."""
    seen = {} if entry is None else orjson.loads(entry.value or b"{}").get("seen", {})
    now = time()
    return sum(now - at < _VALID_S[PEOPLE_KEY] for at in seen.values())
