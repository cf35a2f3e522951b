"""Customers who send defective parts back weeks later, kept between runs.

The line's clock is its images: a simulated week is 500 of them, whatever their rate. A customer
finds every defect that passed, two to six weeks after its inspection, and never sends a good part
back.
"""

import orjson
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

from services.platform.evaluation.sampling import draw
from services.platform.streaming.retry import retry_forever

WEEK_IMAGES = 500
_EARLIEST, _LATEST = 2 * WEEK_IMAGES, 6 * WEEK_IMAGES
_KEY = "cv.returns"


class Returns:
    """Defects that passed and have not come back yet, in a NATS bucket.

    One key: by inspection, when it comes back (a number of images of the line) and its class.
    """

    def __init__(self, bucket: KeyValue, held: dict[str, tuple[int, str]]) -> None:
        self._bucket = bucket
        self._held = held

    def __len__(self) -> int:
        return len(self._held)

    @classmethod
    async def open(cls, bucket: KeyValue) -> "Returns":
        """Read what was sent out before."""
        try:
            return cls(bucket, orjson.loads((await bucket.get(_KEY)).value or b"{}"))
        except NotFoundError:
            return cls(bucket, {})

    async def send_out(self, inspection_id: str, label: str, image: int) -> None:
        """A defect leaves the plant after an image of this number."""
        due = image + _EARLIEST + int(draw(inspection_id, "return") * (_LATEST - _EARLIEST))
        self._held[inspection_id] = due, label
        await self.store()

    def take(self, image: int) -> dict[str, str]:
        """The classes, by inspection, of parts that are back when an image is taken.

        `store` forgets them: after a crash before it they come back once more.
        """
        back = {name: label for name, (due, label) in self._held.items() if due <= image}
        for name in back:
            del self._held[name]
        return back

    async def store(self) -> None:
        """Store what is still out."""
        # What is held by then: a retry must not undo a later change.
        await retry_forever(
            lambda: self._bucket.put(_KEY, orjson.dumps(self._held)), "noting what was sent out"
        )
