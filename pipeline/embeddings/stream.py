"""The embeddings of a table, read as they stream: some thousand rows are in memory at a time.

In: the URI of a table. Out: tables of rows, and float32 arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.store.stream import open_random
from pipeline.store.versions import File

BATCH_ROWS = 4096  # 25 MB of embeddings in float32


class Unreadable(Exception):
    """A table that cannot be used here. The message follows its path."""


class OpenTable:
    """An open table. `footer`: its metadata as text. `version`: size and etag of the file."""

    def __init__(self, file: pq.ParquetFile, version: File) -> None:
        self.file, self.version = file, version
        metadata = file.metadata.metadata or {}
        self.footer = {name.decode(): value.decode() for name, value in metadata.items() if name != b"ARROW:schema"}
        self.num_rows: int = file.metadata.num_rows

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows in their order, up to `BATCH_ROWS` at a time, with all columns or with these.

        Raises:
            Unreadable: the table has no embeddings, or lacks a column.
        """
        names = self.file.schema_arrow.names
        if missing := sorted({*(columns or ()), "embedding"} - {*names}):
            raise Unreadable(f"it has no column {missing[0]}")
        for batch in self.file.iter_batches(BATCH_ROWS, columns=columns and [*columns], use_threads=False):
            yield pa.Table.from_batches([batch])


@contextmanager
def open_table(uri: str) -> Iterator[OpenTable]:
    """A table, open for reading.

    Raises:
        pyarrow.ArrowException, OSError: it is no Parquet file, or cannot be read.
        Replaced: the file was replaced while it was read.
    """
    with open_random(uri) as (file, version):
        yield OpenTable(pq.ParquetFile(file, pre_buffer=False), version)


def to_unit(embedding_ND: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Vectors of length 1 in the same directions; a vector of zeros stays one."""
    length_N1 = np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    unit_ND: np.ndarray[Any, Any] = embedding_ND / np.maximum(length_N1, 1e-12)
    return unit_ND


def embeddings_of(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """The embeddings of N rows, float32 [N, 1536], as an array of its own; zeros where there is none."""
    array = column.combine_chunks()
    embedding_ND = np.zeros((len(array), EMBEDDING_SIZE), np.float32)
    numbers = array.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, EMBEDDING_SIZE)
    if array.null_count:
        embedding_ND[array.is_valid().to_numpy(zero_copy_only=False)] = numbers
    else:
        embedding_ND[:] = numbers
    return embedding_ND
