"""Rows of an outside file that are left out: counted, the first ones kept as examples."""

import csv
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, Any

MAX_EXAMPLES = 20
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Row:
    """Where a row stands in its file.

    Attributes:
        number: Its number, 1 for the first below the header.
        line: Line of a text file on which it begins, 1 for the first; None in a Parquet file.
    """

    number: int
    line: int | None = None

    def __str__(self) -> str:
        return f"row {self.number}" + (f" (line {self.line})" if self.line else "")


class InvalidField(ValueError):
    """A value that cannot be read.

    Attributes:
        field: Field of the transaction.
        reason: What is wrong with the value, and what to do.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


@dataclass
class Rejections:
    """Counts the rows left out of one file.

    Attributes:
        file: Name of the file.
        columns: The file's column by field.
        output: Receives every rejected row as CSV; None for no such file.
        count: Number of rows left out.
        by_field: Number of rows left out, by field; "row" for a row whose fields cannot be told
            apart.
        examples: One sentence a row, for the first `MAX_EXAMPLES`.
    """

    file: str
    columns: dict[str, str] = field(default_factory=dict)
    output: IO[str] | None = None
    count: int = 0
    by_field: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._write("row", "line", "field", "column", "value", "reason")

    def add(self, row: Row, error: InvalidField, value: str | None = None) -> None:
        """Count one row.

        Args:
            row: Where it stands.
            error: The field that is wrong, and why.
            value: What stands in the field; None if nothing does.
        """
        self.count += 1
        self.by_field[error.field] += 1
        column = self.columns.get(error.field, "")
        if len(self.examples) < MAX_EXAMPLES:
            where = f', column "{column}"' if column else ""
            found = "" if value is None else f": {shown(value)}"
            self.examples.append(f"{self.file}, {row}{where}{found} {error.reason}")
        self._write(row.number, row.line, error.field, column, value, error.reason)

    def _write(self, *cells: Any) -> None:
        if self.output:
            csv.writer(self.output).writerow(cells)


def shown(value: str) -> str:
    """A value as a message quotes it: control characters escaped, long ones cut.

    >>> shown("a" * 70)[-5:]
    'aaa…"'
    """
    cut = value[:_MAX_SHOWN] + ("…" if len(value) > _MAX_SHOWN else "")
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in cut) + '"'
