"""Labels as people write them: the spellings of a good part, and a model's classes by name."""

import re
import unicodedata
from collections.abc import Iterable

from services.cv_inspection.problem import GOOD

# Names of good parts in data sets and in shops, `mt_free` in the magnetic tiles.
GOOD_SPELLINGS = frozenset(
    {"good", "ok", "okay", "pass", "passed", "free", "mt_free", "normal", "no_defect",
     "defect_free", "i.o."}
)  # fmt: skip
_SEPARATORS = re.compile(r"[\s_-]+")


class UnknownLabel(ValueError):
    """A label that is neither good nor a known class; the message lists the classes."""


def is_good(label: str) -> bool:
    """Whether a label is a spelling of a good part.

    >>> is_good("OK"), is_good("No defect"), is_good("pit")
    (True, True, False)
    """
    return _normal(label) in GOOD_SPELLINGS


def read_label(label: str, classes: Iterable[str]) -> str:
    """The class that a label names, `good` for a good part.

    Case, spaces, hyphens and underscores make no difference.

    >>> read_label("Missing thread", ["good", "pit", "missing_thread"]), read_label("PASS", [])
    ('missing_thread', 'good')

    Raises:
        UnknownLabel: it names none of the classes.
    """
    if is_good(label):
        return GOOD
    names = list(classes)
    if label in names:
        return label
    for name in names:
        if _normal(name) == _normal(label):
            return name
    raise UnknownLabel(f"label: {label[:80]!r} is not one of {', '.join(names)}")


def _normal(label: str) -> str:
    return _SEPARATORS.sub("_", unicodedata.normalize("NFC", label).strip()).casefold()
