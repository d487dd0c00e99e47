"""The files of the ledger, which remembers runs: the tables `shards` and `runs`, one Parquet file of rows now and then.

In: rows of a run; the store. Out: files; rows read back; tables of `FINISHED` for the plan.
The files of the output are the truth, and the ledger is only their shadow. The ledger saves reading the footer of
each file; an output that loses its ledger loses nothing but history.
Not here: what follows from the rows (`plan`, `history`), and the footers (`label_files`).
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.store import storage
from pipeline.store.listing import FILES, list_files
from pipeline.store.read_parquet import DAMAGE, read_present
from pipeline.tables.label_files import READS_AT_ONCE
from pipeline.tables.ledger_rows import RUNS, SHARDS, RunRow, ShardRow, to_columns
from pipeline.tables.plan import FINISHED
from pipeline.tables.table_paths import SUFFIX

_NEEDED = {"shards": ("run_id", "shard", "model_id", "status", "file"),  # columns of the first release
           "runs": ("run_id", "status", "model_id", "config")}
_PLAN_COLUMNS = ["model_id", "status", *FINISHED.names]


def write_shards(output: str, name: str, rows: list[ShardRow]) -> None:
    """Put rows as `<output>/shards/<name>.parquet`."""
    write(output, "shards", name, [to_columns(row) for row in rows], SHARDS)


def write_run(output: str, row: RunRow) -> None:
    """Put the row of a run as `<output>/runs/<run_id>.parquet`."""
    write(output, "runs", row.run_id, [to_columns(row)], RUNS)


def write(output: str, table: str, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Put rows as `<output>/<table>/<name>.parquet`. A column that a row lacks is null.

    Raises:
        KeyError: a row has a column that the schema lacks, which would be lost.
    """
    if unknown := {column for row in rows for column in row} - {*schema.names}:
        raise KeyError(f"no columns of {table}: {sorted(unknown)}")
    put_rows(output, table, name, pa.Table.from_pylist(rows, schema=schema))


def put_rows(output: str, table: str, name: str, rows: pa.Table) -> None:
    """Put a table of rows as `<output>/<table>/<name>.parquet`."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    storage.put_whole(storage.join(output, table, name + SUFFIX), buffer.getvalue())


def read_finished(output: str, model_id: str, damaged: list[str]) -> pa.Table:
    """The finished files of a model that the ledger remembers, as `FINISHED`; they may be gone or replaced since.

    Args:
        damaged: gets the paths of files of the ledger that cannot be read.
    """
    columns = pa.schema([SHARDS.field(name) for name in _PLAN_COLUMNS])

    def read(path: str) -> pa.Table:
        rows = read_rows(output, "shards", path, columns, damaged)
        ours = pc.and_(pc.equal(rows["model_id"], model_id), pc.equal(rows["status"], "committed"))
        return rows.filter(ours).select(FINISHED.names)

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return pa.concat_tables([FINISHED.empty_table(), *pool.map(read, list_table(output, "shards"))])


def read_shards(output: str, run_id: str, damaged: list[str]) -> list[ShardRow]:
    """The rows of the shards of a run whose files are not merged yet (`compact`)."""
    return [ShardRow(**row) for path in list_table(output, "shards") if path.startswith(run_id)
            for row in read_rows(output, "shards", path, SHARDS, damaged).to_pylist()]


def read_committed(output: str, run_id: str, model_id: str) -> pa.Table:
    """The tables that a run has committed, as far as its files are not merged yet: file, file_size, file_etag,
    num_images."""
    names = ["file", "file_size", "file_etag", "num_images"]
    columns = pa.schema([SHARDS.field(name) for name in ("model_id", "status", *names)])
    parts = [read_rows(output, "shards", path, columns, []) for path in list_table(output, "shards")
             if path.startswith(run_id)]
    rows = pa.concat_tables([columns.empty_table(), *parts])
    ours = pc.and_(pc.equal(rows["model_id"], model_id), pc.equal(rows["status"], "committed"))
    return rows.filter(ours).select(names)


def read_runs(output: str, path: str, damaged: list[str]) -> list[RunRow]:
    """The rows of a file of the table `runs`. A damaged file has no row."""
    return [RunRow(**row) for row in read_rows(output, "runs", path, RUNS, damaged).to_pylist()]


def read_rows(output: str, table: str, path: str, schema: pa.Schema, damaged: list[str]) -> pa.Table:
    """The rows of a file of the table `shards` or `runs`, with the columns of a schema; null where an older file has
    none.

    A file that cannot be read gives no row, since the ledger is only memory. Its path is added to `damaged`.
    """
    try:
        data = storage.read_bytes(storage.join(output, table, path))
    except FileNotFoundError:  # removed since it was listed
        return schema.empty_table()
    try:
        stored = read_present(data, [*{*schema.names, *_NEEDED[table]}])
        if missing := {*_NEEDED[table]} - {*stored.column_names}:
            raise KeyError(missing)
        columns = [stored[name].cast(kind) if name in stored.column_names else pa.nulls(len(stored), kind)
                   for name, kind in zip(schema.names, schema.types, strict=True)]
        rows = pa.table(columns, schema=schema)
        rows.validate(full=True)
    except DAMAGE:
        damaged.append(f"{table}/{path}")
        return schema.empty_table()
    return rows


def list_table(output: str, table: str) -> list[str]:
    """The files of the table `shards` or `runs`, relative to its folder."""
    return [path for path, _ in list_sizes(output, table)]


def list_sizes(output: str, table: str) -> list[tuple[str, int]]:
    """The files of `list_table`, each with its size in bytes."""
    files = _list(storage.join(output, table))
    listed = zip(files["path"].to_pylist(), files["size"].to_pylist(), strict=True)
    return [(path, size) for path, size in listed if path.endswith(SUFFIX)]


def _list(uri: str) -> pa.Table:
    try:
        return list_files(uri)
    except FileNotFoundError:
        return FILES.empty_table()
