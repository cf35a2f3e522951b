"""Lists of values that rules name, such as stolen devices: up to a million entries each.

A list is stored as text, one value per line, under the digest of its content: a set of rules that
keeps a list does not send it again. A frozenset answers exactly; a million values take some 0.1 GB.
"""

import hashlib
from collections.abc import Iterable

from services.fraud.rules.rule import ListReference

MAX_ENTRIES = 1_000_000
MAX_VALUE = 130  # two ids of 64 characters and the bar between them
# Bytes per step. Reading a million at once would hold the interpreter's lock for 0.2 s, and
# requests would wait; so many take 2 ms.
_STEP = 1 << 18

Values = frozenset[str] | set[str]


class ListRefused(ValueError):
    """A list that cannot be used, with the reason."""


def list_text(name: str, values: Iterable[object]) -> bytes:
    r"""A list's content: sorted, without duplicates.

    Args:
        name: For messages.

    Raises:
        ListRefused: a value is no text, is empty or too long, or there are too many.

    Examples:
        >>> list_text("stolen", ["d2", "d1", "d2"])
        b'd1\nd2\n'
    """
    unique: set[str] = set()
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str) or value.strip() != value or not value.isprintable():
            raise ListRefused(f"list {name}, entry {number}: {value!r} is no plain text")
        if not 0 < len(value) <= MAX_VALUE:
            raise ListRefused(f"list {name}, entry {number}: must have 1 to {MAX_VALUE} characters")
        unique.add(value)
    if len(unique) > MAX_ENTRIES:
        raise ListRefused(f"list {name}: {len(unique):,} entries, at most {MAX_ENTRIES:,}")
    return "".join(f"{value}\n" for value in sorted(unique)).encode()


def reference(text: bytes) -> ListReference:
    """What a set of rules holds of a list with this content."""
    return ListReference(digest=hashlib.sha256(text).hexdigest(), entries=text.count(b"\n"))


def read_values(name: str, wanted: ListReference, text: bytes) -> Values:
    """The values of a list, read in steps that other threads can interrupt.

    Raises:
        ListRefused: the content is not the one that the set of rules names.
    """
    if reference(text) != wanted:
        raise ListRefused(f"list {name}: its content is not that of digest {wanted.digest[:8]}")
    values: set[str] = set()
    begin = 0
    while begin < len(text):
        end = text.find(b"\n", min(begin + _STEP, len(text) - 1)) + 1
        values.update(text[begin : end - 1].decode().split("\n"))
        begin = end
    return values
