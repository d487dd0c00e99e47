"""Large Parquet files -> parts: some row groups each, which stand for shards.

In: a listing. Out: the listing with a row for each part of a large file; a part, opened.
A part of `a.parquet` is called `a.parquet/rows-000000200000.parquet`, by its first row. Its size is that of its row
groups, its version is that of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.formats.parquet import ParquetShard
from pipeline.store.listing import FILES
from pipeline.store.read_parquet import DAMAGE
from pipeline.store.retry import Replaced, with_retries
from pipeline.store.storage import open_read
from pipeline.store.stream import open_random
from pipeline.store.versions import File

# A file of more rows than this is read in parts. Only a file of many bytes is asked for its rows.
MAX_ROWS, MIN_BYTES = 200_000, 2**28
PART_ROWS = 50_000  # of a part, at most, unless one row group has more
READS_AT_ONCE = 16
PART = pa.struct([("start", pa.int32()), ("stop", pa.int32())])  # row groups
PARTS = pa.schema([*FILES, ("uri", pa.string()), ("part", PART)])


def is_large(files: pa.Table) -> pa.ChunkedArray:
    """Whether each file has so many bytes that it is asked for its rows."""
    return pc.greater_equal(files["size"], MIN_BYTES)


def split_large(files: pa.Table) -> pa.Table:
    """The shards of Parquet files.

    Args:
        files: `FILES` with a column `uri`, one of which at least is large.

    Returns:
        The same table if none is split; else a table of `PARTS`, in which `part` is null for whole files.
    """
    large = is_large(files)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        parts = [part for of_file in pool.map(_split, files.filter(large).to_pylist()) for part in of_file]
    if all(part["part"] is None for part in parts):
        return files
    whole = files.filter(pc.invert(large)).select(PARTS.names[:-1])
    return pa.concat_tables([whole.append_column("part", pa.nulls(len(whole), PART)).cast(PARTS),
                             pa.Table.from_pylist(parts, PARTS)]).sort_by("path")


def _split(file: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `PARTS` of a file: its parts, or itself. A damaged file stays whole, and fails when it is read."""
    whole = [{**file, "part": None}]

    def read_metadata() -> tuple[pq.FileMetaData, File]:
        with open_read(file["uri"]) as (opened, version):
            return pq.read_metadata(opened), version

    try:
        metadata, version = with_retries(read_metadata)
    except (FileNotFoundError, PermissionError, *DAMAGE):
        return whole
    except OSError as error:
        if error.errno is not None:
            raise
        return whole  # pyarrow raises such an error for a damaged footer
    if metadata.num_rows <= MAX_ROWS or version.etag != file["etag"]:
        return whole
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    starts, first_rows, rows = [0], [0], 0
    for number, group in enumerate(groups):
        if rows - first_rows[-1] and rows - first_rows[-1] + group.num_rows > PART_ROWS:
            starts.append(number)
            first_rows.append(rows)
        rows += group.num_rows
    stops = [*starts[1:], len(groups)]
    parts = []
    for start, stop, row in zip(starts, stops, first_rows, strict=True):
        name = f"rows-{row:012}.parquet"
        parts.append({"path": f"{file['path']}/{name}", "uri": f"{file['uri']}/{name}", "etag": file["etag"],
                      "size": sum(_count_bytes(group) for group in groups[start:stop]),
                      "part": {"start": start, "stop": stop}})
    return parts


def _count_bytes(group: Any) -> int:
    """The bytes that a row group has in the file."""
    return sum(group.column(number).total_compressed_size for number in range(group.num_columns))


@contextmanager
def open_parquet(uri: str, listed: dict[str, Any] | None) -> Iterator[tuple[ParquetShard, File]]:
    """A Parquet file, or a part of one; and the version.

    Args:
        listed: the row of `PARTS` of a part. None: a whole file.

    Raises:
        Replaced: the file is no longer the one that was split, or was replaced while it was read.
    """
    part = listed and listed.get("part")
    if not listed or not part:
        with open_random(uri) as (file, version):
            yield ParquetShard(file), version
        return
    with open_random(uri.rpartition("/")[0]) as (file, version):
        if version.etag != listed["etag"]:
            raise Replaced(f"{uri.rpartition('/')[0]} was replaced since it was listed")
        yield ParquetShard(file, range(part["start"], part["stop"])), File(version.path, listed["size"], version.etag)
