"""Inputs like a valid one, each changed in one to four places, the same for the same seed."""

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

NASTY = (
    None, True, "", " ", "\x00", "nan", "-0", "1e999", "0", "../../etc/passwd", "<img src=x>",
    "\u202e", "\ud83d\ude00", "a" * 5_000, "2999-01-01T00:00:00Z", "0001-01-01", "%FF%00",
    0, -1, 2**31, 2**63, 2**64, -(2**63), 1e308, 1e-320, 0.1, [], {}, [[]], [None], {"a": {}},
)  # fmt: skip
# What a JSON reader must refuse, or must read as something finite.
TEXTS = (b"NaN", b"Infinity", b"1e400", b"[" * 500, b"\xff\xfe", b"\\ud800", b"{}", b"//", b"\r\n")


def mutations(sample: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` changed copies of a sample; of JSON, half are changed in their values alone."""
    chooser = random.Random(seed)
    try:
        parsed = json.loads(sample)
    except ValueError:
        parsed = None
    for number in range(count):
        changes = chooser.randint(1, 4)
        if parsed is not None and number % 2:
            yield _changed_values(chooser, parsed, changes)
        else:
            yield _changed_bytes(chooser, sample, changes)


def _changed_bytes(chooser: random.Random, sample: bytes, changes: int) -> bytes:
    data = bytearray(sample)
    for _ in range(changes):
        begin = chooser.randrange(len(data) + 1)
        end = min(begin + chooser.choice((0, 1, 1, 2, 8, 64)), len(data))
        kind = chooser.randrange(5)
        if kind == 0:
            data[begin:end] = chooser.randbytes(end - begin)
        elif kind == 1:
            data[begin:end] = b""
        elif kind == 2:
            data[begin:begin] = data[begin:end] * 2
        elif kind == 3:
            data[begin:begin] = chooser.choice(TEXTS)
        else:
            del data[begin:]
    return bytes(data)


def _changed_values(chooser: random.Random, parsed: Any, changes: int) -> bytes:
    made = json.loads(json.dumps(parsed))
    for _ in range(changes):
        places = list(_places(made))
        if not places:
            break
        holder, key = chooser.choice(places)
        kind = chooser.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            holder[chooser.choice(("extra", "", "__proto__", key.upper()))] = holder[key]
        elif kind == 1:
            del holder[key]
        else:
            holder[key] = deepcopy(chooser.choice(NASTY))  # a later change may be inside it
    return json.dumps(made).encode(errors="surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of each value inside a value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys) if isinstance(value, dict | list) else ():
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])
