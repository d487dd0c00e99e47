"""A manifest, a CSV or Parquet file that lists the URIs of images -> groups that stand for shards.

In: the manifest's URI; column `uri` (relative ones are seen from the manifest's folder), if known `size` in bytes and
`etag`. Out: a table of `GROUPS`, in the manifest's order: what is appended redoes the last group only.
Where `size` and `etag` are not given each file is asked for them: a request each. One that is not there keeps its row.
"""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.csv

from pipeline import storage
from pipeline.config import UserError, check_uri
from pipeline.image_files import MISSING, group_in_order
from pipeline.listing import FILES
from pipeline.parquet import read_table

ASKED_AT_ONCE = 32


def read_manifest(uri: str) -> pa.Table:
    """The groups of a manifest.

    Raises:
        UserError: it cannot be parsed, has no column `uri`, lists nothing, or holds credentials.
    """
    data = storage.read_bytes(uri)
    try:
        table = read_table(data) if uri.lower().endswith(".parquet") else pyarrow.csv.read_csv(
            io.BytesIO(data), convert_options=pyarrow.csv.ConvertOptions(column_types={
                "uri": pa.string(), "size": pa.int64(), "etag": pa.string()}))
    except pa.ArrowInvalid as error:
        raise UserError(f"--input {uri}: not a manifest that can be read: {' '.join(str(error).split())}.") from error
    if "uri" not in table.column_names or not len(table):
        raise UserError(f"--input {uri}: a manifest has a column uri, and a row for each image; this one has "
                        f"{len(table)} rows of {', '.join(table.column_names)}.")
    uris = [_absolute(uri, str(one)) for one in table["uri"].to_pylist()]
    for one in uris:
        check_uri("input", one)
    if {"size", "etag"} <= {*table.column_names}:
        files = pa.table([uris, table["size"].cast(pa.int64()), table["etag"].cast(pa.string())], schema=FILES)
    else:
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            found = list(pool.map(_stat, uris))
        files = pa.table([uris, [file.size for file in found], [file.etag for file in found]], schema=FILES)
    return group_in_order(files)


def _absolute(manifest: str, uri: str) -> str:
    return uri if "://" in uri or uri.startswith("/") else storage.join(manifest.rpartition("/")[0], uri)


def _stat(uri: str) -> storage.File:
    try:
        return storage.stat(uri)
    except FileNotFoundError:
        return storage.File(uri, 0, MISSING)
