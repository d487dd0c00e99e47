"""The tables of a model as one long list of rows, numbered from 0 in the order of their paths.

In: an output. Out: the tables with the number of their first row; unit vectors; columns of chosen rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embeddings.stream import embeddings_of, open_table, to_unit
from pipeline.errors import UserError
from pipeline.store.explain import explaining_errors
from pipeline.tables import label_tables
from pipeline.tables.label_files import read_footers
from pipeline.tables.layout import label_uri


@dataclass(frozen=True)
class Table:
    """A table of a model. `path`: relative to the model's folder. `first`: the number of its first row. `etag`: its
    version."""

    path: str
    first: int
    num_rows: int
    size: int
    etag: str


@dataclass(frozen=True)
class Tables:
    """The tables of a model."""

    output: str
    model_id: str
    tables: list[Table]

    @property
    def num_rows(self) -> int:
        """Rows of all tables."""
        return self.tables[-1].first + self.tables[-1].num_rows if self.tables else 0

    def open_uri(self, table: Table) -> str:
        """The URI of a table."""
        return label_uri(self.output, self.model_id, table.path, table.etag)

    def embeddings(self, table: Table) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """The numbers of the rows that have an embedding, int64 [N], and their embeddings, float32 [N, 1536]; some
        thousand rows at a time."""
        at = table.first
        with open_table(self.open_uri(table)) as opened:
            for batch in opened.batches(["embedding"]):
                is_there = batch["embedding"].is_valid().to_numpy()
                yield at + np.flatnonzero(is_there), embeddings_of(batch["embedding"])[is_there]
                at += batch.num_rows

    def unit_vectors(self, table: Table) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """As `embeddings`, at length 1."""
        for row_N, embedding_ND in self.embeddings(table):
            yield row_N, to_unit(embedding_ND)

    def take(self, rows: np.ndarray[Any, Any], columns: Sequence[str]) -> pa.Table:
        """Columns of rows, in the order of their numbers. Only the tables that have such rows are read.

        Args:
            rows: int64 [N], rising.
        """
        parts = []
        for table in self.tables:
            start, stop = np.searchsorted(rows, (table.first, table.first + table.num_rows))
            if start < stop:
                with open_table(self.open_uri(table)) as opened:
                    whole = opened.file.read([*columns], use_threads=False).select([*columns])
                parts.append(whole.take(pa.array(rows[start:stop] - table.first)))
        return pa.concat_tables(parts).combine_chunks()


def split_tables(tables: list[Table], most_rows: int) -> Iterator[list[Table]]:
    """The tables in lists of up to so many rows; a larger table is a list of its own."""
    some: list[Table] = []
    for table in tables:
        if some and sum(one.num_rows for one in some) + table.num_rows > most_rows:
            yield some
            some = []
        some.append(table)
    if some:
        yield some


def list_tables(output: str, model_id: str) -> Tables:
    """The tables of a model. A file without our footer is passed over, as everywhere.

    Raises:
        UserError: the output cannot be read, or has no tables of this model.
    """
    with explaining_errors("--output", output):
        footers = read_footers(output, model_id, label_tables.list_labels(output, model_id))
    if not len(footers):
        raise UserError(f"--output {output} has no tables of {model_id}.")
    footers = footers.sort_by("file")
    firsts = pc.subtract(pc.cumulative_sum(footers["num_images"]), footers["num_images"]).to_pylist()
    columns = zip(footers["file"].to_pylist(), firsts, footers["num_images"].to_pylist(),
                  footers["file_size"].to_pylist(), footers["file_etag"].to_pylist(), strict=True)
    return Tables(output, model_id, [Table(*row) for row in columns])
