"""Replay: the transactions of a file and their labels, as events in order of time."""

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.fraud.ingestion.events import LabelEvent, SimulatedEvent, Transaction
from services.platform.streaming.messages import validation_message

_ROWS_PER_FETCH = 5_000


class ColumnNames(BaseModel):
    """The file's column for each field; a field without a column is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transaction_id: str
    event_time: str
    customer_id: str
    merchant_id: str
    amount: str
    fraud: str
    device_id: str | None = None
    ip: str | None = None


class FileMapping(BaseModel):
    """How to read a file of transactions.

    Attributes:
        columns: Its columns.
        prefix: Prepended to every id, so that data sets do not mix.
        minor_units: Minor units in one unit of `amount`: 100 where amounts are in euros.
        label_delay_days: Days from a transaction to its label.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: ColumnNames
    prefix: str = ""
    minor_units: int = Field(100, ge=1)
    label_delay_days: float = Field(7.0, ge=0)

    @classmethod
    def load(cls, name: str) -> "FileMapping":
        """Read a mapping from a file, or one that is part of the package by its name.

        Raises:
            ValueError: the mapping is invalid; the message names the field.
            OSError: the file does not exist.
        """
        shipped = files("services.fraud") / "conf" / f"replay-{name}.yaml"
        text = shipped.read_text() if shipped.is_file() else Path(name).read_text()
        try:
            return cls.model_validate(yaml.safe_load(text))
        except ValidationError as error:
            raise ValueError(f"mapping {name}: {validation_message(error)}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"mapping {name}: {error}") from None


def replayed_events(
    file: Path, mapping: FileMapping, since: str | None, rejected: list[str]
) -> Iterator[SimulatedEvent]:
    """The transactions of a file and their labels, in order of event time.

    Args:
        since: Begin at this time, UTC; None for the beginning.
        rejected: Receives a message for each row that is not a valid transaction and is left out.

    Raises:
        ValueError: the file lacks a column.
    """
    delay = timedelta(days=mapping.label_delay_days)
    pending: list[tuple[datetime, int, LabelEvent]] = []
    for number, row in enumerate(_rows(file, mapping.columns, since)):
        try:
            transaction, fraud = _transaction(row, mapping)
        except ValueError as error:
            rejected.append(f"row {number}: {error}")
            continue
        while pending and pending[0][0] <= transaction.event_time:
            yield SimulatedEvent(heapq.heappop(pending)[2])
        yield SimulatedEvent(transaction, fraud)
        label = LabelEvent(
            transaction_id=transaction.transaction_id,
            event_time=transaction.event_time + delay,
            customer_id=transaction.customer_id,
            merchant_id=transaction.merchant_id,
            device_id=transaction.device_id,
            ip=transaction.ip,
            fraud=fraud,
        )
        heapq.heappush(pending, (label.event_time, number, label))
    while pending:
        yield SimulatedEvent(heapq.heappop(pending)[2])


def _rows(file: Path, columns: ColumnNames, since: str | None) -> Iterator[dict[str, Any]]:
    reader = "read_parquet" if file.suffix == ".parquet" else "read_csv"
    wanted = {k: v for k, v in columns.model_dump().items() if v is not None}
    chosen = ", ".join(f'"{column}" AS {field}' for field, column in wanted.items())
    where = f'WHERE "{columns.event_time}" >= CAST(? AS TIMESTAMP)' if since else ""
    with duckdb.connect() as db:
        try:
            found = db.execute(
                f"SELECT {chosen} FROM {reader}(?) {where} "
                f'ORDER BY "{columns.event_time}", "{columns.transaction_id}"',
                [str(file), since] if since else [str(file)],
            )
        except duckdb.Error as error:
            raise ValueError(f"{file.name}: {str(error).splitlines()[0]}") from None
        while rows := found.fetchmany(_ROWS_PER_FETCH):
            yield from (dict(zip(wanted, row, strict=True)) for row in rows)


def _transaction(row: dict[str, Any], mapping: FileMapping) -> tuple[Transaction, bool]:
    time = row["event_time"]
    if isinstance(time, datetime) and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    ids: dict[str, Any] = {
        key: None if row.get(key) is None else f"{mapping.prefix}{row[key]}"
        for key in ("transaction_id", "customer_id", "merchant_id", "device_id")
    }
    try:
        # Amounts are decimals; half a cent rounds to even.
        amount = int((Decimal(str(row["amount"])) * mapping.minor_units).to_integral_value())
        transaction = Transaction(**ids, event_time=time, ip=row.get("ip"), amount_minor=amount)
    except (ValidationError, ArithmeticError) as error:
        message = (
            validation_message(error)
            if isinstance(error, ValidationError)
            else f"amount: {row['amount']}"
        )
        raise ValueError(message) from None
    return transaction, bool(row["fraud"])
