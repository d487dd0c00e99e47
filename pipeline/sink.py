"""Rows -> one Parquet file a shard, whole or absent.

In: pieces of a shard (rows of one batch, in any order, from any actor). Out: `<shard>.parquet`, put once.
A shard that is one piece is put at once. Else each piece is put under `_staging/<run>/<shard>/<version>/`, and whoever
finds the pieces contiguous up to the end merges them: no coordinator, and two who find it at once put the same bytes.
Not here: which shards are pending, and what is left of dead runs.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.batches import REPORT
from pipeline.counts import Counts
from pipeline.listing import list_files
from pipeline.output import labels_uri
from pipeline.parquet import read_table
from pipeline.retry import may_pass, told
from pipeline.table import ROWS, written

GROUP_ROWS = 8192  # of a row group at least: 50 MB of embeddings
_PIECE = re.compile(r"(\d+)-(\d+)(\.end)?\.parquet$")
_TEXT_AND_IDS = ["shard", "label_id", "label", "error", "top5.list.element.label_id", "top5.list.element.label"]
_WITH_STATISTICS = ["shard", "index", "key", "width", "height", "sha256", "label_id", "label", "prob", "error"]


@dataclass(frozen=True)
class Source:
    """The version of a shard that was read; it goes into the footer of its file."""

    shard: str
    uri: str
    size: int
    etag: str


@dataclass(frozen=True)
class Sink:
    """Where one run's rows go. `output`: root URI of the tables; `run_id` names the staging folder.

    `embeddings`: `float32`, `float16` or `false` (see `table.written`).
    """

    output: str
    run_id: str
    model_id: str
    embeddings: str = "float32"

    def write(self, source: Source, piece: pa.Table, first: int, end: bool) -> storage.File | None:
        """Take the rows `first`, `first` + 1, … of a shard; `end`: they are its last.

        Returns:
            The committed file, if these rows completed the shard; else None.
        """
        uri = labels_uri(self.output, self.model_id, source.shard)
        if first == 0 and end:
            return self._commit(uri, source, [piece])
        version = hashlib.sha256(source.etag.encode()).hexdigest()[:16]
        folder = storage.join(self.output, "_staging", self.run_id, source.shard, version)
        name = f"{first:09}-{first + piece.num_rows:09}{'.end' if end else ''}.parquet"
        storage.put_whole(storage.join(folder, name), encode([piece], self.embeddings))
        names = _whole(list_files(folder)["path"].to_pylist())
        if names is None:
            return None
        try:
            committed = self._commit(uri, source, (read_table(storage.read_bytes(storage.join(folder, name))) for name in names))
        except FileNotFoundError:
            return None  # another worker committed the same rows, and removed the pieces
        storage.remove(folder)
        return committed

    def _commit(self, uri: str, source: Source, pieces: Iterable[pa.Table]) -> storage.File:
        footer = {"source_uri": source.uri, "source_size": str(source.size), "source_etag": source.etag,
                  "model_id": self.model_id, "run_id": self.run_id}
        storage.put_whole(uri, encode(pieces, self.embeddings, footer))
        return storage.stat(uri)


class Committer:
    """The stage: a callable, tables of `LABELLED` in, tables of `REPORT` out. An actor, since a process for each task
    costs seconds of imports, and commits are few."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    def __call__(self, batch: pa.Table) -> pa.Table:
        made = pa.Table.from_struct_array(batch["rows"].chunk(0).flatten()).cast(ROWS)
        row = batch.drop_columns(["rows"]).to_pylist()[0]
        committed = None
        if row["failure"] is None:
            source = Source(row["shard"], row["uri"], row["size"], row["etag"])
            try:
                committed = self.sink.write(source, made, row["first"], row["end"])
            except Exception as error:  # noqa: BLE001  # a store may fail in any way; the run goes on without this shard
                row |= {"failure": told(error), "passing": may_pass(error)}
        row |= Counts.of(made).columns() | {"examples": _examples(made), "file_size": committed and committed.size,
                                            "file_etag": committed and committed.etag}
        return pa.Table.from_pylist([row], schema=REPORT)


def _examples(rows: pa.Table) -> list[dict[str, Any]]:
    """The first row of each reason code."""
    rejected = rows.select(["error", "shard", "index", "key"]).filter(rows["error"].is_valid())
    return list({row["error"]: row for row in reversed(rejected.to_pylist())}.values())


def encode(pieces: Iterable[pa.Table], embeddings: str, footer: dict[str, str] | None = None) -> bytes:
    """A Parquet file: zstd, dictionaries for text and ids only, no statistics of embeddings, page index.

    Of the pieces some thousand rows are held at a time. Footers get `num_rows` and `num_rejected` added.
    """
    buffer, schema = io.BytesIO(), written(embeddings)
    num_rows = num_rejected = 0
    with pq.ParquetWriter(buffer, schema, compression="zstd", use_dictionary=_TEXT_AND_IDS,
                          write_statistics=_WITH_STATISTICS, write_page_index=True) as writer:
        for rows in _groups(pieces):
            writer.write_table(rows.select(schema.names).cast(schema))
            num_rows += rows.num_rows
            num_rejected += rows.num_rows - rows["error"].null_count
        if footer:
            writer.add_key_value_metadata({**footer, "num_rows": str(num_rows), "num_rejected": str(num_rejected)})
    return buffer.getvalue()


def _groups(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of all pieces as tables of a row group each."""
    held: list[pa.Table] = []
    for piece in pieces:
        held.append(piece.replace_schema_metadata())
        if sum(rows.num_rows for rows in held) >= GROUP_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _whole(names: list[str]) -> list[str] | None:
    """The pieces that make the shard from row 0 to its end, in order; None while one is missing."""
    pieces = sorted((int(match[1]), int(match[2]), bool(match[3]), name)
                    for name in names if (match := _PIECE.search(name)))
    position = 0
    for first, last, _, _ in pieces:
        if first != position:
            return None
        position = last
    return [name for *_, name in pieces] if pieces and pieces[-1][2] else None
