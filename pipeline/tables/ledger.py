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

from pipeline.formats.left_out import LEFT_OUT
from pipeline.store import storage
from pipeline.store.listing import FILES, list_files
from pipeline.store.read_parquet import DAMAGE, read_present
from pipeline.store.retry import with_retries
from pipeline.tables.counts import CONFIDENCE, LABELS, REJECTED
from pipeline.tables.output import labels_folder
from pipeline.tables.plan import FINISHED
from pipeline.tables.table_paths import SUFFIX, table_path

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
    ("num_left_out", pa.int64()),    # members that gave no row and belong to no image
    ("left_out", LEFT_OUT),          # by reason and suffix
    ("image_bytes", pa.int64()),     # encoded
    ("decode_s", pa.float64()),      # seconds of decode threads
    ("label_s", pa.float64()),       # seconds in which a labeller was busy
    ("file", pa.string()),           # relative to labels/model=<model_id>/
    ("file_size", pa.int64()),       # bytes
    ("file_etag", pa.string()),
    ("labelled_at", pa.timestamp("us", "UTC")),
])

RUNS = pa.schema([  # one row a run
    ("run_id", pa.string()),
    ("status", pa.string()),         # running, done, failed; killed, as a later run found it
    ("started_at", pa.timestamp("us", "UTC")),
    ("seconds", pa.float64()),
    ("input", pa.string()),
    ("model_id", pa.string()),
    ("device", pa.string()),
    ("precision", pa.string()),
    ("runner", pa.string()),         # what ran the network: cpu, fast, or plain where the fast one was not trusted
    ("hardware", pa.string()),
    ("versions", pa.string()),       # JSON
    ("config", pa.string()),         # JSON
    ("pending_bytes", pa.int64()),   # of the shards that were to be labelled
    ("num_skipped", pa.int64()),     # shards that were done before
    ("num_committed", pa.int64()),
    ("num_failed", pa.int64()),
    ("num_orphans", pa.int64()),     # tables of shards that the input no longer has (of --partition only, if it was given)
    ("num_images", pa.int64()),
    ("num_rejected", pa.int64()),
    ("rejected", REJECTED),
    ("num_left_out", pa.int64()),    # files of the input, and members of the shards of this run, that gave no row
    ("left_out", LEFT_OUT),
    ("labels", LABELS),              # images by label_id
    ("confidence", CONFIDENCE),      # images by prob: 20 bins from 0 to 1
    ("images_per_s", pa.float64()),  # from the first attempt to the last
    ("cpu_s", pa.float64()),         # CPU seconds of decoders, and of labellers on CPUs
    ("gpu_s", pa.float64()),         # GPU seconds of labellers
])

_NEEDED = {"shards": ("run_id", "shard", "model_id", "status", "file"), "runs": ("run_id", "status", "model_id", "config")}  # of the first release
_PLAN_COLUMNS = ["model_id", "status", *FINISHED.names]
READS_AT_ONCE = 16

FOOTERS = pa.schema([*FINISHED, ("run_id", pa.string()), ("source_uri", pa.string()), ("num_images", pa.int64()),
                     ("num_rejected", pa.int64())])


def write(output: str, table: str, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Put rows of a schema (`SHARDS`, `RUNS`) as `<output>/<table>/<name>.parquet`."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    storage.put_whole(storage.join(output, table, name + ".parquet"), buffer.getvalue())


def read_finished(output: str, model_id: str, damaged: list[str]) -> pa.Table:
    """What the ledger remembers of finished files of a model, as `FINISHED`; files may be gone or replaced since."""
    wanted = pa.schema([SHARDS.field(name) for name in _PLAN_COLUMNS])

    def read(path: str) -> pa.Table:
        rows = read_rows(output, "shards", path, wanted, damaged)
        ours = pc.and_(pc.equal(rows["model_id"], model_id), pc.equal(rows["status"], "committed"))
        return rows.filter(ours).select(FINISHED.names)

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return pa.concat_tables([FINISHED.empty_table(), *pool.map(read, list_table(output, "shards"))])


def read_shards(output: str, run_id: str, damaged: list[str]) -> list[dict[str, Any]]:
    """The rows of `SHARDS` of a run."""
    return [row for path in list_table(output, "shards") if path.startswith(run_id)
            for row in read_rows(output, "shards", path, SHARDS, damaged).to_pylist()]


def read_rows(output: str, table: str, path: str, schema: pa.Schema, damaged: list[str]) -> pa.Table:
    """The rows of a file of the table `shards` or `runs`, with the columns of a schema; null where an older file has none.

    What cannot be read holds no row: the ledger is only memory. Its path is added to `damaged`.
    """
    try:
        data = storage.read_bytes(storage.join(output, table, path))
    except FileNotFoundError:  # removed since it was listed
        return schema.empty_table()
    try:
        found = read_present(data, [*{*schema.names, *_NEEDED[table]}])
        if missing := {*_NEEDED[table]} - {*found.column_names}:
            raise KeyError(missing)
        columns = [found[name].cast(kind) if name in found.column_names else pa.nulls(len(found), kind)
                   for name, kind in zip(schema.names, schema.types, strict=True)]
        rows = pa.table(columns, schema=schema)
        rows.validate(full=True)
    except DAMAGE:
        damaged.append(f"{table}/{path}")
        return schema.empty_table()
    return rows


def list_table(output: str, table: str) -> list[str]:
    """The files of the table `shards` or `runs`, relative to its folder."""
    paths: list[str] = _list(storage.join(output, table))["path"].to_pylist()
    return [path for path in paths if path.endswith(".parquet")]


def list_labels(output: str, model_id: str, partition: str | None = None) -> pa.Table:
    """The finished files of a model, or those of one folder of the input, as a table of `FILES`, `path` relative to
    `labels/model=<model_id>/`. Files of other names are passed over."""
    folder = labels_folder(output, model_id)
    if partition is None:
        files = _list(folder)
    else:
        mirrored, plain = table_path(partition.strip("/") + "/").removesuffix("/" + SUFFIX), partition.strip("/")
        files = pa.concat_tables(_below(folder, place) for place in dict.fromkeys((mirrored, plain)))  # the second may have misplaced ones
    return files.filter(pc.match_substring_regex(files["path"], r"(^|/)[^./][^/]*\.parquet$"))


def _below(folder: str, place: str) -> pa.Table:
    """What is listed at a place in a folder, by its path in the folder."""
    files = _list(storage.join(folder, place))
    return files.set_column(0, FILES.field("path"), pc.binary_join_element_wise(place, files["path"], "/"))


def read_footers(output: str, model_id: str, files: pa.Table) -> pa.Table:
    """What the files say of themselves, as `FOOTERS`.

    A file without our footer says nothing, and its shard is labelled again.
    """
    folder = labels_folder(output, model_id)

    def read(path: str) -> dict[str, Any] | None:
        try:
            version, footer = with_retries(lambda: _footer(storage.join(folder, path)))
            said = {name.decode(): value.decode() for name, value in footer.items()}
            return {"file": path, "file_size": version.size, "file_etag": version.etag,
                    "source_size": int(said["source_size"]), "source_etag": said["source_etag"],
                    "source_uri": said["source_uri"], "run_id": said.get("run_id"),  # null: of before runs were named
                    "num_images": int(said["num_rows"]), "num_rejected": int(said["num_rejected"])}
        except (FileNotFoundError, *DAMAGE):
            return None
        except OSError as error:
            if error.errno is not None:
                raise
            return None  # so pyarrow calls a damaged footer

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        found = [entry for entry in pool.map(read, files["path"].to_pylist()) if entry is not None]
    return pa.Table.from_pylist(found, FOOTERS)


def _footer(uri: str) -> tuple[storage.File, dict[bytes, bytes]]:
    with storage.open_read(uri) as (opened, version):
        return version, pq.read_metadata(opened).metadata or {}


def _list(uri: str) -> pa.Table:
    try:
        return list_files(uri)
    except FileNotFoundError:
        return FILES.empty_table()
