"""Rows -> one Parquet file a shard, whole or absent.

In: pieces of a shard: rows of one block or of neighbours, in any order, from any actor. Out: the table of the shard,
put once; in a lake no commit of the log yet. A shard that is one piece is put at once. Else each piece is put under
`_staging/<run>/<shard>/<version>/`. The actor that finds the pieces contiguous up to the end merges them: no
coordinator is needed, and two actors that find the same pieces put the same bytes.
Not here: which shards are pending, and the staging pieces of dead runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.formats.kept import KEPT, add_kept
from pipeline.parse import KeptColumn
from pipeline.store import storage
from pipeline.store.listing import list_files
from pipeline.store.read_parquet import read_table
from pipeline.store.versions import File
from pipeline.tables.label_files import ShardVersion, encode_file, file_schema, make_footer
from pipeline.tables.label_tables import put_table
from pipeline.tables.labels import ROWS
from pipeline.tables.layout import Kind, place_of

_PIECE = re.compile(r"(\d+)-(\d+)(\.end)?\.parquet$")


@dataclass(frozen=True)
class Sink:
    """Where the rows of one run go.

    `output`: root URI of the tables. `run_id`: names the staging folder. `embeddings`: `float32`, `float16` or `false`
    (see `label_files.file_schema`). `keep`: the kept columns. `table`: what the tables of the output are.
    """

    output: str
    run_id: str
    model_id: str
    embeddings: str = "float32"
    keep: tuple[KeptColumn, ...] = ()
    table: Kind = "parquet"

    def no_rows(self) -> pa.Table:
        """The table of no rows, as `write` takes it."""
        return ROWS.append(pa.field("kept", KEPT)).empty_table() if self.keep else ROWS.empty_table()

    def write(self, source: ShardVersion, piece: pa.Table, first: int, end: bool) -> File | None:
        """Take the rows `first`, `first` + 1, … of a shard. `end`: the piece has the last rows of the shard.

        Args:
            piece: `ROWS`; with `keep` and a column `kept` of `KEPT`.

        Returns:
            The committed file, if the piece completed the shard; else None.

        Raises:
            NotOfType: a kept value is not of the type of its column.
            OSError: the path of the shard leads out of the output; or any error of the store.
        """
        place_of(source.shard)  # before anything is put
        if self.keep:
            piece = add_kept(piece.drop_columns("kept"), piece["kept"].combine_chunks(), self.keep)
        if first == 0 and end:
            return self._commit(source, [piece])
        version = hashlib.sha256(source.etag.encode()).hexdigest()[:16]
        folder = storage.join(self.output, "_staging", self.run_id, source.shard, version)
        name = f"{first:09}-{first + piece.num_rows:09}{'.end' if end else ''}.parquet"
        storage.put_whole(storage.join(folder, name), encode_file([piece], self._schema()))
        parts = _choose_parts(list_files(folder)["path"].to_pylist())
        if parts is None:
            return None
        try:
            committed = self._commit(source, (
                read_table(storage.read_bytes(storage.join(folder, name))).slice(skip) for name, skip in parts))
        except FileNotFoundError:
            return None  # another actor committed the same rows, and removed the pieces
        storage.remove(folder)
        return committed

    def _commit(self, source: ShardVersion, pieces: Iterable[pa.Table]) -> File:
        footer = make_footer(source, self.model_id, self.run_id, self.keep)
        data = encode_file(pieces, self._schema(), footer)
        return put_table(self.output, self.model_id, self.table, source.shard, data)

    def _schema(self) -> pa.Schema:
        return file_schema(self.embeddings, self.keep, lake=self.table != "parquet")


def _choose_parts(names: list[str]) -> list[tuple[str, int]] | None:
    """The pieces that make the shard from row 0 to its end, in order, each with the rows to skip; None while some
    are missing.

    Two attempts may have cut the shard at different places. Their pieces overlap, and have the same rows where they
    overlap.
    """
    pieces = sorted((int(match[1]), int(match[2]), bool(match[3]), name)
                    for name in names if (match := _PIECE.search(name)))
    stop = next((last for _, last, end, _ in pieces if end), None)
    parts: list[tuple[str, int]] = []
    position = -1 if stop == 0 else 0  # a shard of no rows has one piece of none
    while stop is not None and position < stop:
        reach, first, name = max(((last, first, name) for first, last, _, name in pieces if first <= max(0, position)),
                                 default=(position, 0, ""))
        if reach <= position:
            return None
        parts.append((name, max(0, position) - first))
        position = reach
    return parts or None
