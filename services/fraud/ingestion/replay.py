"""Replay: a file of transactions and its labels, as happenings in order of event time."""

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

from services.fraud.ingestion.events import LabelEvent, Transaction
from services.fraud.simulator.gateway import Happening
from services.platform.streaming.messages import explain

_CHUNK = 5_000


class Columns(BaseModel):
    """Names of a file's columns. Those it lacks are left out, and their fields are null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transaction_id: str
    event_time: str
    customer_id: str
    merchant_id: str
    amount: str
    fraud: str
    device_id: str | None = None
    ip: str | None = None


class Mapping(BaseModel):
    """How a file of transactions is read.

    Attributes:
        columns: Its columns. prefix: Put before every id, so that data sets do not mix.
        minor_units: How many minor units one of `amount` is: 100 where amounts are in euros.
        label_delay_days: A label becomes known so many days after its transaction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: Columns
    prefix: str = ""
    minor_units: int = Field(100, ge=1)
    label_delay_days: float = Field(7.0, ge=0)

    @classmethod
    def load(cls, name: str) -> "Mapping":
        """Read a mapping from a file, or one that ships by its name.

        Raises:
            ValueError: it is no mapping; the message names the field. OSError: no such file.
        """
        shipped = files("services.fraud") / "conf" / f"replay-{name}.yaml"
        text = shipped.read_text() if shipped.is_file() else Path(name).read_text()
        try:
            return cls.model_validate(yaml.safe_load(text))
        except ValidationError as error:
            raise ValueError(f"mapping {name}: {explain(error)}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"mapping {name}: {error}") from None


def happenings(
    file: Path, mapping: Mapping, since: str | None, rejected: list[str]
) -> Iterator[Happening]:
    """A file's transactions and their labels, in order of event time.

    Args:
        since: Begin at this time, UTC; None for the beginning.
        rejected: Receives a sentence for each row that is no transaction; it is left out.

    Raises:
        ValueError: the file has no such columns.
    """
    delay = timedelta(days=mapping.label_delay_days)
    waiting: list[tuple[datetime, int, LabelEvent]] = []
    for number, row in enumerate(_rows(file, mapping.columns, since)):
        try:
            asked, fraud = _transaction(row, mapping)
        except ValueError as error:
            rejected.append(f"row {number}: {error}")
            continue
        while waiting and waiting[0][0] <= asked.event_time:
            yield Happening(heapq.heappop(waiting)[2])
        yield Happening(asked, fraud)
        label = LabelEvent(
            transaction_id=asked.transaction_id,
            event_time=asked.event_time + delay,
            customer_id=asked.customer_id,
            merchant_id=asked.merchant_id,
            device_id=asked.device_id,
            ip=asked.ip,
            fraud=fraud,
        )
        heapq.heappush(waiting, (label.event_time, number, label))
    while waiting:
        yield Happening(heapq.heappop(waiting)[2])


def _rows(file: Path, columns: Columns, since: str | None) -> Iterator[dict[str, Any]]:
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
        while rows := found.fetchmany(_CHUNK):
            yield from (dict(zip(wanted, row, strict=True)) for row in rows)


def _transaction(row: dict[str, Any], mapping: Mapping) -> tuple[Transaction, bool]:
    time = row["event_time"]
    if isinstance(time, datetime) and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    ids: dict[str, Any] = {
        key: None if row.get(key) is None else f"{mapping.prefix}{row[key]}"
        for key in ("transaction_id", "customer_id", "merchant_id", "device_id")
    }
    try:
        # A file's amounts are decimals as people write them; halves of a cent round to even.
        amount = int((Decimal(str(row["amount"])) * mapping.minor_units).to_integral_value())
        asked = Transaction(**ids, event_time=time, ip=row.get("ip"), amount_minor=amount)
    except (ValidationError, ArithmeticError) as error:
        why = explain(error) if isinstance(error, ValidationError) else f"amount: {row['amount']}"
        raise ValueError(why) from None
    return asked, bool(row["fraud"])
