"""The values that go along from the input to the tables (`--keep`).

In: values as the input has them. They travel through the blocks as text. Out: typed columns of the tables.
Not here: where a format has the values (`tars`, `parquet.py`, `loose.py`), and which types an output has
(`tables/owner/keep.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as is_type

from pipeline.parse import KeptColumn
from pipeline.store.uris import printable

KEPT = pa.list_(pa.string())  # of an image: a text or null for each column
ARROW_TYPES = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
               "time": pa.timestamp("us", "UTC")}
MAX_BYTES = 2**20  # of a member of a tar that holds such values


class NotOfType(Exception):
    """A value is not of the type that its column has. The message names both."""


def to_text(value: Any) -> str | None:
    """A value as text. Numbers and times keep all their digits; lists and structs become JSON."""
    if value is None or isinstance(value, str):
        return None if value is None else printable(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.astimezone(UTC).isoformat(timespec="microseconds")  # of nanoseconds the last digits are dropped
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=to_text)
    return value.isoformat() if isinstance(value, date) else str(value)


def kept_type(kind: pa.DataType) -> str:
    """The type of a kept column that has values of a type of Arrow."""
    while is_type.is_dictionary(kind):
        kind = kind.value_type
    tests = {"int": is_type.is_integer, "float": is_type.is_floating, "bool": is_type.is_boolean,
             "time": is_type.is_timestamp}
    return next((name for name, test in tests.items() if test(kind)), "text")


def kept_fields(columns: Sequence[KeptColumn]) -> list[pa.Field]:
    """The fields of kept columns in a table."""
    return [pa.field(column.name, ARROW_TYPES[column.type or "text"]) for column in columns]


def add_kept(rows: pa.Table, kept: pa.Array, columns: Sequence[KeptColumn]) -> pa.Table:
    """Rows with their kept columns behind the others.

    Args:
        kept: `KEPT` of each row.

    Raises:
        NotOfType: a value is not of the type of its column.
    """
    for place, (column, field) in enumerate(zip(columns, kept_fields(columns), strict=True)):
        rows = rows.append_column(field, _cast(pc.list_element(kept, place), column, field.type, rows))
    return rows


def _cast(texts: pa.Array, column: KeptColumn, kind: pa.DataType, rows: pa.Table) -> pa.Array:
    if kind == pa.string():
        return texts
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        for text, key in zip(texts.to_pylist(), rows["key"].to_pylist(), strict=True):
            try:
                pa.array([text], pa.string()).cast(kind)
            except pa.ArrowInvalid:
                shown = text if len(text) <= 60 else text[:57] + "..."
                raise NotOfType(f"--keep {column}: {key} has {shown!r}, which is no {column.type}; keep it as "
                                f"{column.source}:text") from None
        raise
