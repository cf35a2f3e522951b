"""Mappings: which column of an outside file is which field, and how its texts are read."""

import codecs
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from services.fraud.ingestion.rejections import InvalidField, shown
from services.platform.streaming.messages import validation_message

MAX_MAPPING_BYTES = 64 * 1024
# What databases and data frames write for an empty cell.
MISSING = frozenset({"", "nan", "null", "none", "<na>", "nat", "n/a", "\\n", "na"})
FRAUD = frozenset(
    {"1", "1.0", "true", "t", "yes", "y", "fraud", "fraudulent", "chargeback", "charged back"}
)
GENUINE = frozenset(
    {"0", "0.0", "false", "f", "no", "n", "genuine", "legit", "legitimate", "not fraud", "nonfraud",
     "non-fraud", "undisputed"}
)  # fmt: skip

_NUMBERS = {
    ".": re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII),
    ",": re.compile(r"[+-]?(\d+(,\d*)?|,\d+)", re.ASCII),
}
_MAX_AMOUNT_DIGITS = 15
_MAX_ID = 64
_MAX_PREFIX = 24
_ID = re.compile(r"[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]*")
_KEPT = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
# Ends the readable part of a shortened id. No escape looks like it: "-" is no hexadecimal digit.
_SHORTENED = "@-"

Unit = Literal["ns", "us", "ms", "s", "min", "h", "d"]


def _utc(time: object) -> object:
    """YAML reads an unquoted date as one; a time without a zone is UTC."""
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    if isinstance(time, date) and not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day)
    if isinstance(time, datetime) and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return time


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("is not a time zone such as Europe/Berlin")
    return name


def _known_encoding(name: str) -> str:
    try:
        if not codecs.lookup(name)._is_text_encoding:
            raise LookupError
        "a".encode(name)
    except (LookupError, ValueError):
        raise ValueError("is not an encoding such as utf-8 or cp1252") from None
    return name


class Strict(BaseModel):
    """A part of a mapping: no unknown keys; numbers are texts where texts are wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class ColumnNames(Strict):
    """The file's column for each field; a field without a column is null.

    Without a `fraud` column no outcome is known.
    """

    transaction_id: str
    event_time: str
    customer_id: str
    merchant_id: str
    amount: str
    fraud: str | None = None
    device_id: str | None = None
    ip: str | None = None

    def by_field(self) -> dict[str, str]:
        """The columns that the file has, by field."""
        return {key: column for key, column in self.model_dump().items() if column is not None}


class TimeFormat(Strict):
    """How the column of times is written.

    Attributes:
        unit: The column holds numbers of this unit; None for dates and times.
        origin: The time that the number 0 stands for.
        format: The dates' format, as strptime has it; None for ISO 8601.
        zone: Zone of times that carry none.
    """

    unit: Unit | None = None
    origin: Annotated[datetime, BeforeValidator(_utc)] = datetime(1970, 1, 1, tzinfo=UTC)
    format: Annotated[str, StringConstraints(min_length=2, max_length=100)] | None = None
    zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"

    @model_validator(mode="after")
    def _numbers_or_dates(self) -> "TimeFormat":
        if self.unit and self.format:
            raise ValueError("unit is for numbers and format is for dates: give one of them")
        return self

    def reason(self, value: str) -> str:
        """Why a value of the column is not a time, and what to do."""
        if self.unit:
            return f"is not a number (time.unit is {self.unit})"
        if self.format:
            return f"is not a time of the format {self.format}"
        if _NUMBERS["."].fullmatch(value.strip()):
            return (
                "is a number; say in the mapping what it counts, such as "
                "time: {unit: s, origin: 2022-04-01}"
            )
        return (
            "is not a time such as 2022-04-30 12:00:00; the mapping can give the format, such as "
            'time: {format: "%d.%m.%Y %H:%M"}'
        )


class Labels(Strict):
    """Spellings of a label besides the usual ones; case does not count."""

    fraud: frozenset[str] = frozenset()
    genuine: frozenset[str] = frozenset()

    @model_validator(mode="after")
    def _disjoint(self) -> "Labels":
        fraud, genuine = _folded(self.fraud), _folded(self.genuine)
        if both := fraud & genuine | fraud & GENUINE | genuine & FRAUD:
            raise ValueError(f"{shown(min(both))} would be fraud and genuine")
        return self


class FileMapping(Strict):
    """How to read a file of transactions.

    Attributes:
        columns: Its columns.
        prefix: Prepended to every id, so that data sets do not mix.
        minor_units: Minor units in one unit of `amount`: 100 where amounts are in euros.
        decimal: The decimal separator of amounts.
        label_delay_days: Days from a transaction to its label.
        ids: `keep` ids as they are; `escape` characters that ids may not have; `hash` every id.
        time: How times are written.
        labels: Further spellings of labels.
        encoding: Encoding of a text file.
    """

    columns: ColumnNames
    prefix: Annotated[
        str,
        StringConstraints(pattern=r"^([A-Za-z0-9_:@-][A-Za-z0-9_.:@-]*)?$", max_length=_MAX_PREFIX),
    ] = ""
    minor_units: int = Field(100, ge=1, le=1_000_000)
    decimal: Literal[".", ","] = "."
    label_delay_days: float = Field(7.0, ge=0, le=3_650, allow_inf_nan=False)
    ids: Literal["keep", "escape", "hash"] = "keep"
    time: TimeFormat = Field(default_factory=TimeFormat)
    labels: Labels = Field(default_factory=Labels)
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"

    @classmethod
    def load(cls, name: str) -> "FileMapping":
        """Read a mapping from a file, or one that is part of the package by its name.

        Raises:
            ValueError: the mapping is invalid; the message names the field.
            OSError: the file does not exist.
        """
        shipped = files("services.fraud") / "conf" / f"replay-{Path(name).name}.yaml"
        path = shipped if Path(name).name == name and shipped.is_file() else Path(name)
        with path.open("rb") as file:
            content = file.read(MAX_MAPPING_BYTES + 1)
        try:
            return cls.model_validate(_parse(content))
        except ValidationError as error:
            raise ValueError(f"mapping {name}: {_quoted(error)}") from None
        except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise ValueError(f"mapping {name}: {str(error) or type(error).__name__}") from None

    def for_run(self, run: str) -> "FileMapping":
        """The same mapping with a run's name before every id, so that it is a data set of its own.

        Raises:
            ValueError: the name has other characters, or is too long.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", run):
            raise ValueError(f"run {shown(run)}: use letters, digits, _ and -")
        prefix = f"{run}:{self.prefix}"
        if len(prefix) > _MAX_PREFIX:
            raise ValueError(f"run {run}: longer than {_MAX_PREFIX} characters with the prefix")
        return self.model_copy(update={"prefix": prefix})

    def identifier(self, field: str, text: str) -> str:
        """The id of a party or transaction from its text in the file.

        Raises:
            InvalidField: the id cannot be kept as it is.
        """
        if self.ids == "hash":
            return self.prefix + _digest(text)
        name = self.prefix + (_escaped(text) if self.ids == "escape" else text)
        if self.ids == "escape" and len(name) > _MAX_ID:
            digest = _digest(text)
            return name[: _MAX_ID - len(_SHORTENED) - len(digest)] + _SHORTENED + digest
        if len(name) > _MAX_ID or not _ID.fullmatch(name):
            raise InvalidField(
                field,
                "cannot be an id as it is (letters, digits and _ - : @ . without a leading dot, at "
                f"most {_MAX_ID} with the prefix); set ids: escape or ids: hash in the mapping",
            )
        return name

    def amount_minor(self, text: str) -> int:
        """An amount in minor units, exact; half a minor unit rounds to even.

        Raises:
            InvalidField: the text is not a number.
        """
        if not _NUMBERS[self.decimal].fullmatch(text.strip()):
            hint = _other_decimal(text, self.decimal)
            raise InvalidField("amount", f"is not a number{hint}")
        amount = Decimal(text.strip().replace(",", ".")) * self.minor_units
        if amount and amount.adjusted() > _MAX_AMOUNT_DIGITS:
            raise InvalidField("amount", "is too large")
        return int(amount.to_integral_value())

    def label(self, text: str | None) -> bool | None:
        """Whether a transaction is fraud; None while that is not known.

        Raises:
            InvalidField: the spelling is not known.
        """
        if is_missing(text):
            return None
        spelt = str(text).strip().casefold()
        if spelt in FRAUD or spelt in _folded(self.labels.fraud):
            return True
        if spelt in GENUINE or spelt in _folded(self.labels.genuine):
            return False
        raise InvalidField(
            "fraud",
            "is not a label (1/0, true/false, yes/no, fraud/genuine, empty for not known yet); "
            "the mapping can name others, such as labels: {fraud: [CB], genuine: [OK]}",
        )


def is_missing(text: str | None) -> bool:
    """Whether a cell is empty, or holds what databases and data frames write for that.

    >>> is_missing(" NaN"), is_missing("0")
    (True, False)
    """
    return text is None or text.strip().casefold() in MISSING


def _parse(content: bytes) -> Any:
    if len(content) > MAX_MAPPING_BYTES:
        raise ValueError(f"longer than {MAX_MAPPING_BYTES // 1024} KiB: is it a mapping?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text: is it a mapping?") from None
    # Aliases of aliases grow without bound.
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise ValueError("YAML aliases (*name) are not read")
    return yaml.safe_load(text)


def _quoted(error: ValidationError) -> str:
    """The errors' message; YAML reads some words as other things than text."""
    message = validation_message(error)
    misread = [e["input"] for e in error.errors() if e["type"] == "string_type"]
    words = [one for one in misread if isinstance(one, bool | date)]
    return f"{message} (YAML reads this word as {words[0]}: put it in quotes)" if words else message


def _other_decimal(text: str, decimal: str) -> str:
    other = "," if decimal == "." else "."
    if _NUMBERS[other].fullmatch(text.strip()):
        return f'; if the decimal separator is {other} set decimal: "{other}" in the mapping'
    return ""


def _folded(spellings: Iterable[str]) -> frozenset[str]:
    return frozenset(one.strip().casefold() for one in spellings)


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _escaped(text: str) -> str:
    """Other bytes than letters, digits, _ and - as @ and two hexadecimal digits.

    >>> _escaped("O'Neil, Ann")
    'O@27Neil@2C@20Ann'
    """
    return "".join(chr(b) if b in _KEPT else f"@{b:02X}" for b in text.encode())


def header_columns(header: Iterable[str], wanted: Mapping[str, str]) -> dict[str, int]:
    """Position of each field's column. Case and outer spaces count only where they must.

    Raises:
        ValueError: a column is missing, or there are two of its name.

    >>> header_columns(["Id", "t"], {"transaction_id": "id"})
    {'transaction_id': 0}
    """
    names = list(header)
    folded = [name.strip().casefold() for name in names]
    positions = {}
    for key, column in wanted.items():
        found = [i for i, name in enumerate(names) if name == column] or [
            i for i, name in enumerate(folded) if name == column.strip().casefold()
        ]
        if len(found) != 1:
            has = ", ".join(shown(name) for name in names[:20]) or "none"
            count = "no column" if not found else f"{len(found)} columns"
            raise ValueError(f'{count} "{column}" (for {key}); its columns: {has}')
        positions[key] = found[0]
    return positions
