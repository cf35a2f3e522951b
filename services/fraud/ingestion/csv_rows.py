"""Rows of a CSV file, one at a time: a malformed row is rejected; reading continues."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pyarrow as pa

from services.fraud.ingestion.mapping import header_columns
from services.fraud.ingestion.rejections import InvalidField, Rejections, Row

# A quote that is never closed would join all lines that follow to one row.
_MAX_LINES = 100
_MAX_LINE = 1 << 20
_DELIMITERS = ",;\t|"
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}
_SEPARATOR = re.compile(r"sep=(.)\s*", re.IGNORECASE)  # Excel's first line


class _Lines:
    """The lines of a text, of which some can be given back to be read again.

    Attributes:
        taken: Lines of the present row; None for a line that is too long.
        number: Number of lines read, less those given back.
    """

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._returned: deque[str | None] = deque()
        self.taken: list[str | None] = []
        self.number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.taken) == _MAX_LINES:
            raise StopIteration
        line = self._returned.popleft() if self._returned else self._read()
        if line == "":
            raise StopIteration
        self.taken.append(line)
        self.number += 1
        if line is None:
            raise csv.Error(f"line longer than {_MAX_LINE:,} characters")
        return line

    def _read(self) -> str | None:
        line = self._text.readline(_MAX_LINE)
        if len(line) < _MAX_LINE or line.endswith(("\n", "\r")):
            return line
        while len(line) == _MAX_LINE and not line.endswith(("\n", "\r")):
            line = self._text.readline(_MAX_LINE)
        return None

    def keep_first(self) -> None:
        """Give back all lines of the present row but the first."""
        self._returned.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1


def csv_rows(
    file: Path, columns: Mapping[str, str], encoding: str, rejections: Rejections
) -> Iterator[tuple[int, int, *tuple[str, ...]]]:
    """The rows of a CSV file: number, line, and the mapped texts in the order of `columns`.

    The delimiter is the one of `, ; tab |` that finds the columns in the header. Quoted fields may
    hold delimiters and line ends. A malformed row is rejected; where it has a quote that is not
    closed, reading goes on with its next line.

    Args:
        file: The file; compressed ones by their ending (.gz, .bz2, .zst, .lz4).
        columns: The file's column by field.
        encoding: Its encoding, unless it begins with a byte order mark.
        rejections: Receives malformed rows.

    Raises:
        ValueError: the file has no such columns, or is not text of this encoding.
        OSError: the file cannot be read.
    """
    with pa.input_stream(file, compression="detect", buffer_size=1 << 20) as source:
        raw = io.BufferedReader(source, 1 << 20)
        mark = raw.peek(4)[:4]
        found = next((name for start, name in _MARKS.items() if mark.startswith(start)), encoding)
        if mark.startswith(b"PK\x03\x04"):
            raise ValueError("is a workbook or an archive: save it as CSV or Parquet")
        errors = "surrogateescape" if found != "utf-16" else "strict"
        text = io.TextIOWrapper(raw, found, errors, newline="")
        try:
            yield from _rows(text, columns, rejections)
        except UnicodeError as error:
            raise ValueError(f"is not {found} text: {error}") from None


def _rows(
    text: IO[str], columns: Mapping[str, str], rejections: Rejections
) -> Iterator[tuple[int, int, *tuple[str, ...]]]:
    lines = _Lines(text)
    width, delimiter, positions = _header(lines, columns)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    number = 0
    while True:
        lines.taken.clear()
        first = lines.number + 1
        try:
            cells = next(reader)
            if not cells:
                continue
            if len(cells) != width:
                raise csv.Error(f"{len(cells)} fields where the header has {width}")
        except StopIteration:
            return
        except csv.Error as error:
            if not lines.taken:
                return
            lines.keep_first()
            number += 1
            reason = f"cannot be read as a row: {error}"
            rejections.add(Row(number, first), InvalidField("row", reason), lines.taken[0])
            continue
        number += 1
        yield number, first, *(cells[position] for position in positions)


def _header(lines: _Lines, columns: Mapping[str, str]) -> tuple[int, str, list[int]]:
    """Number of columns, the delimiter, and the positions of the mapped columns."""
    delimiters = _DELIMITERS
    try:
        line = next(lines, "")
        if excel := _SEPARATOR.fullmatch(line):
            delimiters, line = excel[1], next(lines, "")
    except csv.Error as error:
        raise ValueError(f"has no header: {error}") from None
    if not line.strip():
        raise ValueError("has no header")
    problems: dict[int, ValueError] = {}
    for delimiter in delimiters:
        try:
            names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
            return len(names), delimiter, list(header_columns(names, columns).values())
        except (ValueError, csv.Error) as error:
            width = line.count(delimiter)
            problems.setdefault(width, ValueError(str(error)))
    raise problems[max(problems)]
