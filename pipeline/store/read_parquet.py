"""Parquet from memory: the bytes of a file to a table.

Not `pyarrow.parquet.read_table`: its scanner reads on Arrow's own threads, and one of them that still lets go of a
Python object while the interpreter ends aborts the whole process (pyarrow 26: 2 of 60 small scripts, "terminate called
without an active exception"; where only the calling thread reads, none of 360).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

DAMAGE = (pa.ArrowException, ValueError, KeyError, TypeError, IndexError)  # what reading a file raises that holds something else


def read_table(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table of a Parquet file, or those columns of it, read by the calling thread.

    Raises:
        pyarrow.ArrowInvalid: it is not a Parquet file, or is damaged.
        KeyError: it has no such column.
    """
    table = _read(data, columns)
    return table.select(columns) if columns else table


def read_present(data: bytes, columns: list[str]) -> pa.Table:
    """The same, without those of the columns that the file does not have."""
    return _read(data, columns)


def _read(data: bytes, columns: list[str] | None) -> pa.Table:
    try:
        return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(columns, use_threads=False)
    except OSError as error:  # so it calls a damaged file, though no store was asked
        raise pa.ArrowInvalid(str(error)) from error
