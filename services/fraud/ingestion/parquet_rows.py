"""Columns of a Parquet file as texts, each the exact value of its type."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from services.fraud.ingestion.mapping import header_columns

MAGIC = b"PAR1"
# Whole numbers up to here are exact in a float64.
_MAX_EXACT = 2.0**53


def parquet_batches(file: Path, columns: Mapping[str, str], rows: int) -> Iterator[list[pa.Array]]:
    """The mapped columns in batches, in the order of `columns`.

    Args:
        file: The file.
        columns: The file's column by field.
        rows: Rows of a batch, at most.

    Yields:
        An array for each column: large_binary for texts, which may be invalid UTF-8; event times
        as timestamps in microseconds; integers, decimals and booleans as they are, and floats too
        if they are amounts or labels.

    Raises:
        ValueError: the file has no such columns, or they are not texts, numbers or times.
        OSError: the file is damaged.
    """
    # Impala's and Spark's old times would overflow as nanoseconds.
    with pq.ParquetFile(file, coerce_int96_timestamp_unit="us") as source:
        names = source.schema_arrow.names
        positions = header_columns(names, columns)
        wanted = {key: names[position] for key, position in positions.items()}
        for batch in source.iter_batches(rows, columns=sorted(set(wanted.values()))):
            yield [_column(batch.column(name), key, name) for key, name in wanted.items()]


def _column(values: pa.Array, field: str, name: str) -> pa.Array:
    try:
        return _value(values, field)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise ValueError(
            f'column "{name}" is {values.type}, not texts, numbers or times: {error}'
        ) from None


def _value(values: pa.Array, field: str) -> pa.Array:
    kind = values.type
    if types.is_dictionary(kind):
        return _value(values.dictionary_decode(), field)
    if types.is_nested(kind):
        raise pa.ArrowInvalid("it is nested")
    if types.is_timestamp(kind) and field == "event_time":
        return values.cast(pa.timestamp("us", kind.tz), safe=False)
    if field != "event_time" and _keeps_type(kind, field):
        return values
    is_text = any(
        check(kind)
        for check in (types.is_string, types.is_large_string, types.is_binary,
                      types.is_large_binary, types.is_fixed_size_binary)
    )  # fmt: skip
    return (values if is_text else as_text(values)).cast(pa.large_binary())


def _keeps_type(kind: pa.DataType, field: str) -> bool:
    """Whether a number stays one until its row is sent. Ids stored as floats are made whole."""
    if types.is_float32(kind) or types.is_float64(kind):
        return field in ("amount", "fraud")
    return bool(types.is_integer(kind) or types.is_decimal128(kind) or types.is_boolean(kind))


def as_text(values: pa.Array) -> pa.Array:
    """Values as texts, each exact.

    Integers that a data frame stored as floats because some are missing are whole again: 7.0 is
    "7".
    """
    if not types.is_floating(values.type):
        return values.cast(pa.large_string())
    if types.is_float16(values.type):
        values = values.cast(pa.float32())
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), _MAX_EXACT))
    integers = pc.cast(pc.if_else(whole, values, None), pa.int64())
    return pc.coalesce(integers.cast(pa.large_string()), values.cast(pa.large_string()))
