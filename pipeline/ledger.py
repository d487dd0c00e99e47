"""What is remembered of runs: the `shards` and `runs` tables, and what finished files say of themselves.

In: reports of a run; the store. Out: tables of `FINISHED` for the plan, one Parquet file of rows now and then.
The output's files are the truth, the ledger only their shadow: it saves reading each file's footer, and losing it
loses nothing but history.
Not here: what follows from it (`catalog`).
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.catalog import FINISHED
from pipeline.listing import FILES, list_files
from pipeline.output import labels_folder
from pipeline.retry import retrying

REJECTED = pa.list_(pa.struct([("error", pa.string()), ("num_images", pa.int64())]))

SHARDS = pa.schema([  # one row a shard and run
    ("run_id", pa.string()),
    ("shard", pa.string()),          # path relative to the input
    ("source_uri", pa.string()),
    ("source_size", pa.int64()),     # bytes
    ("source_etag", pa.string()),
    ("model_id", pa.string()),
    ("status", pa.string()),         # committed or failed
    ("failure", pa.string()),        # null, or why it failed
    ("num_images", pa.int64()),
    ("num_rejected", pa.int64()),
    ("rejected", REJECTED),          # by reason code
    ("image_bytes", pa.int64()),     # encoded
    ("decode_s", pa.float64()),      # seconds of decode threads
    ("label_s", pa.float64()),       # seconds of labellers
    ("file", pa.string()),           # relative to labels/model=<model_id>/
    ("file_size", pa.int64()),       # bytes
    ("file_etag", pa.string()),
    ("labelled_at", pa.timestamp("us", "UTC")),
])

RUNS = pa.schema([  # one row a run
    ("run_id", pa.string()),
    ("status", pa.string()),         # done, failed
    ("started_at", pa.timestamp("us", "UTC")),
    ("seconds", pa.float64()),
    ("input", pa.string()),
    ("model_id", pa.string()),
    ("device", pa.string()),
    ("precision", pa.string()),
    ("hardware", pa.string()),
    ("versions", pa.string()),       # JSON
    ("config", pa.string()),         # JSON
    ("num_skipped", pa.int64()),     # shards that were done before
    ("num_committed", pa.int64()),
    ("num_failed", pa.int64()),
    ("num_images", pa.int64()),
    ("num_rejected", pa.int64()),
    ("rejected", REJECTED),
    ("images_per_s", pa.float64()),
])

_PLAN_COLUMNS = ["model_id", "status", *FINISHED.names]
READS_AT_ONCE = 16


def write(output: str, table: str, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Put rows of `SHARDS` or `RUNS` as `<output>/<table>/<name>.parquet`."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    storage.put_whole(storage.join(output, table, name + ".parquet"), buffer.getvalue())


def read_finished(output: str, model_id: str) -> pa.Table:
    """What the ledger remembers of finished files of a model, as `FINISHED`; files may be gone or replaced since."""
    folder = storage.join(output, "shards")

    def read(path: str) -> pa.Table:
        rows = pq.read_table(io.BytesIO(storage.read_bytes(storage.join(folder, path))), columns=_PLAN_COLUMNS)
        ours = pc.and_(pc.equal(rows["model_id"], model_id), pc.equal(rows["status"], "committed"))
        return rows.filter(ours).select(FINISHED.names)

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        paths = [path for path in _list(folder)["path"].to_pylist() if path.endswith(".parquet")]
        return pa.concat_tables([FINISHED.empty_table(), *pool.map(read, paths)])


def list_labels(output: str, model_id: str) -> pa.Table:
    """The finished files of a model as a table of `FILES`, `path` relative to `labels/model=<model_id>/`."""
    files = _list(labels_folder(output, model_id))
    return files.filter(pc.match_substring_regex(files["path"], r"(^|/)[^./][^/]*\.parquet$"))


def read_footers(output: str, model_id: str, files: pa.Table) -> pa.Table:
    """What the files say of themselves, as `FINISHED`.

    A file without our footer says nothing, and its shard is labelled again.
    """
    folder = labels_folder(output, model_id)

    def read(path: str) -> tuple[str, int, str, int, str] | None:
        try:
            version, footer = retrying(lambda: _footer(storage.join(folder, path)))
            return path, version.size, version.etag, int(footer[b"source_size"]), footer[b"source_etag"].decode()
        except (KeyError, ValueError, pa.ArrowInvalid, FileNotFoundError):
            return None

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        found = [entry for entry in pool.map(read, files["path"].to_pylist()) if entry is not None]
    return pa.Table.from_pylist([dict(zip(FINISHED.names, entry, strict=True)) for entry in found], FINISHED)


def _footer(uri: str) -> tuple[storage.File, dict[bytes, bytes]]:
    with storage.open_read(uri) as (opened, version):
        return version, pq.read_metadata(opened).metadata or {}


def _list(uri: str) -> pa.Table:
    try:
        return list_files(uri)
    except FileNotFoundError:
        return FILES.empty_table()
