"""A Parquet file with a column of images -> samples, in the order of its rows.

In: an open Parquet file, or some row groups of one. The column of the images holds the encoded bytes, in any of Arrow's
types of bytes (also as a dictionary), or Hugging Face's struct of `bytes` and `path`.
Out: a `Sample` for each row. Only a few rows are in memory at a time.
Not here: decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as is_type

from pipeline.formats import kept
from pipeline.formats.parquet_columns import class_names, find_columns, parse_truth, raising_unreadable, to_text
from pipeline.formats.samples import KeyTruth, Sample, ShardUnreadable

ROWS_AT_ONCE = 16
BUFFER_BYTES = 2**23  # for each column that is read


class ParquetShard(NamedTuple):
    """An open Parquet file, or some of its row groups. `groups`: their numbers; None: all."""

    file: Any
    groups: range | None = None


def read_rows(shard: ParquetShard, image_column: str | None, key_column: str | None, max_bytes: int,
              max_samples: int | None = None, truth_column: str | None = None,
              keep: Sequence[str] = ()) -> Iterator[Sample]:
    """Stream the rows as samples.

    A null image gives the error `empty`; an image of more than `max_bytes` gives `too_large`. The truth is the value of
    `truth_column`. If Hugging Face's metadata name the classes of a number, the truth is that name.

    Args:
        keep: columns whose values go along. A column that the file lacks gives None.

    Raises:
        ShardUnreadable: the file is not Parquet, is damaged, lacks a column, or has more than `max_samples` rows.
    """
    with raising_unreadable(shard.file):
        parquet = pq.ParquetFile(shard.file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        image, key = find_columns(parquet.schema_arrow, image_column, key_column)
        rows = _row_numbers(parquet, shard.groups)
        if max_samples is not None and len(rows) > max_samples:
            raise ShardUnreadable(f"more than {max_samples:,} images; make smaller shards, or raise --max-shard-images")
        kept_columns = [name for name in keep if name in parquet.schema_arrow.names]
        columns = [name for name in (image, key, truth_column, *kept_columns) if name is not None]
        index = 0
        for batch, names, truths in _read_batches(parquet, shard.groups, columns, key, truth_column):
            values_of = {name: batch[name].to_pylist() for name in kept_columns}
            for at, (value, name, truth) in enumerate(zip(batch[image], names, truths, strict=True)):
                cell = value.as_py() if value.is_valid else None
                encoded, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
                name = name if name is not None else path if path is not None else rows[index]
                error = "empty" if encoded is None else "too_large" if len(encoded) > max_bytes else None
                values = tuple(kept.to_text(values_of[name][at]) if name in values_of else None for name in keep)
                content = b"" if encoded is None or error else encoded
                yield Sample(index, to_text(name), content, error, truth.truth, values)
                index += 1


def read_keys(shard: ParquetShard, image_column: str | None, key_column: str | None,
              truth_column: str | None = None) -> Iterator[KeyTruth]:
    """The key and the truth of each row, the same as those of `read_rows`. The images are not read.

    Raises: as `read_rows`.
    """
    with raising_unreadable(shard.file):
        parquet = pq.ParquetFile(shard.file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        image, key = find_columns(parquet.schema_arrow, image_column, key_column)
        rows = _row_numbers(parquet, shard.groups)
        kind = parquet.schema_arrow.field(image).type
        has_path = is_type.is_struct(kind) and kind.get_field_index("path") >= 0
        path = f"{image}.path" if key is None and has_path else None
        columns = [name for name in (key, path, truth_column) if name is not None]
        if not columns:
            yield from (KeyTruth(str(row), None) for row in rows)
            return
        index = 0
        for batch, names, truths in _read_batches(parquet, shard.groups, columns, key, truth_column):
            paths = [cell and cell["path"] for cell in batch[image].to_pylist()] if path else [None] * batch.num_rows
            for name, image_path, truth in zip(names, paths, truths, strict=True):
                text = name if name is not None else image_path if image_path is not None else rows[index]
                yield truth._replace(key=to_text(text))
                index += 1


def _row_numbers(parquet: pq.ParquetFile, groups: range | None) -> range:
    """The numbers that the rows of some row groups have in the whole file."""
    metadata = parquet.metadata
    ends = list(accumulate((metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)), initial=0))
    return range(ends[groups.start], ends[groups.stop]) if groups is not None else range(metadata.num_rows)


def _read_batches(parquet: pq.ParquetFile, groups: range | None, columns: list[str], key: str | None,
                  truth_column: str | None) -> Iterator[tuple[pa.RecordBatch, list[Any], list[KeyTruth]]]:
    """Some rows at a time: their batch, the cells of the key column, and their truths, which have no key yet."""
    classes = class_names(parquet.schema_arrow, truth_column) if truth_column else []
    for batch in parquet.iter_batches(ROWS_AT_ONCE, groups, columns, use_threads=False):
        keys = batch[key].to_pylist() if key else [None] * batch.num_rows
        cells = batch[truth_column].to_pylist() if truth_column else [None] * batch.num_rows
        yield batch, keys, [parse_truth(cell, classes) for cell in cells]
