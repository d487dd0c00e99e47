"""Rows -> one Parquet file a shard, whole or absent.

In: pieces of a shard (rows of one block or of neighbours, in any order, from any actor). Out: `<shard>.parquet`, put once.
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

from pipeline.report.gallery import make_pictures
from pipeline.stages.batch import REPORT, answers_of, fail, samples_of, segments_of
from pipeline.stages.failures import describe_failure, tell_failures
from pipeline.store import storage
from pipeline.store.listing import list_files
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import is_retryable
from pipeline.tables.counts import Counts
from pipeline.tables.labels import ROWS, file_schema, make_rows, split_answers
from pipeline.tables.output import labels_uri

GROUP_ROWS = 8192  # of a row group at least: 50 MB of embeddings
_PIECE = re.compile(r"(\d+)-(\d+)(\.end)?\.parquet$")
_TEXT_AND_IDS = ["shard", "label_id", "label", "error", "top5.list.element.label_id", "top5.list.element.label"]
_WITH_STATISTICS = ["shard", "index", "key", "width", "height", "sha256", "label_id", "label", "prob", "error"]


@dataclass(frozen=True)
class ShardVersion:
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

    def write(self, source: ShardVersion, piece: pa.Table, first: int, end: bool) -> storage.File | None:
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
        parts = _whole(list_files(folder)["path"].to_pylist())
        if parts is None:
            return None
        try:
            committed = self._commit(uri, source, (
                read_table(storage.read_bytes(storage.join(folder, name))).slice(skip) for name, skip in parts))
        except FileNotFoundError:
            return None  # another worker committed the same rows, and removed the pieces
        storage.remove(folder)
        return committed

    def _commit(self, uri: str, source: ShardVersion, pieces: Iterable[pa.Table]) -> storage.File:
        footer = {"source_uri": source.uri, "source_size": str(source.size), "source_etag": source.etag,
                  "model_id": self.model_id, "run_id": self.run_id}
        storage.put_whole(uri, encode(pieces, self.embeddings, footer))
        return storage.stat(uri)


class Committer:
    """The stage: a callable, a table of `LABELLED` in (one row or several), a table of `REPORT` out.

    Neighbours of one shard, in one block or in several, are one piece: a shard that is here as a whole is put at once. An actor,
    since a process for each task costs seconds of imports.

    Args:
        sink: where the rows go.
        labels: the label of each label_id.
    """

    def __init__(self, sink: Sink, labels: list[str]) -> None:
        self.sink = sink
        self.labels = pa.array(labels, pa.string())

    @tell_failures(REPORT)
    def __call__(self, blocks: pa.Table) -> pa.Table:
        pieces: dict[tuple[int, str], list[_Piece]] = {}
        failed: list[dict[str, Any]] = []
        shown: list[dict[str, Any]] = []
        for row in range(blocks.num_rows):
            segments, samples = segments_of(blocks, row), samples_of(blocks, row)
            made = ROWS.empty_table()
            if samples.num_rows:
                made = make_rows(samples, split_answers(answers_of(blocks, row, samples.num_rows)), self.labels)
            shown += make_pictures(made, blocks["pictures"][row].as_py())
            label_s, at = blocks["label_s"][row].as_py(), 0
            for segment in segments:
                piece = _Piece(segment | {"label_s": label_s * segment["num_images"] / max(1, samples.num_rows)},
                               made.slice(at, segment["num_images"]))
                at += segment["num_images"]
                if segment["failure"] is None:
                    pieces.setdefault((segment["number"], segment["etag"]), []).append(piece)
                else:
                    failed.append(fail(segment, segment["failure"], segment["retryable"]) | {
                        "num_bytes": segment["num_bytes"], "decode_s": segment["decode_s"], "label_s": piece.segment["label_s"]})
        broken = {segment["number"] for segment in failed}
        reported = [self._commit(piece) for number, _ in pieces for piece in _joined(pieces[number, _]) if number not in broken]
        return _report(blocks, reported + failed, shown)

    def _commit(self, piece: _Piece) -> dict[str, Any]:
        """Put a piece; the segment as the report has it."""
        segment, committed = piece.segment, None
        source = ShardVersion(segment["shard"], segment["uri"], segment["size"], segment["etag"])
        try:
            committed = self.sink.write(source, piece.rows, segment["first"], segment["end"])
        except Exception as error:  # noqa: BLE001  # a store may fail in any way; the run goes on without this shard
            segment = segment | {"failure": describe_failure(error), "retryable": is_retryable(error)}
        return segment | Counts.of(piece.rows).columns() | {
            "examples": _examples(piece.rows), "file_size": committed and committed.size, "file_etag": committed and committed.etag}


@dataclass
class _Piece:
    """Rows of a shard. `segment`: what is said of them."""

    segment: dict[str, Any]
    rows: pa.Table


def _joined(pieces: list[_Piece]) -> list[_Piece]:
    """Pieces of one shard, neighbours joined."""
    joined: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.segment["first"]):
        before = joined[-1].segment if joined else None
        if before is not None and before["first"] + before["num_images"] == piece.segment["first"]:
            sums = {name: before[name] + piece.segment[name] for name in ("num_images", "num_bytes", "decode_s", "label_s")}
            joined[-1] = _Piece(before | sums | {name: piece.segment[name] for name in ("end", "left_out")}, pa.concat_tables([joined[-1].rows, piece.rows]))
        else:
            joined.append(piece)
    return joined


def _report(blocks: pa.Table, segments: list[dict[str, Any]], shown: list[dict[str, Any]]) -> pa.Table:
    """The row of `REPORT` for some rows of `LABELLED`."""
    moved = blocks["moved"].to_pylist()
    last = {name: blocks[name][-1].as_py() for name in ("precision", "runner", "runner_note")} if blocks.num_rows else {}
    row = last | {"segments": segments, "label_s": sum(blocks["label_s"].to_pylist()), "num_slots": sum(blocks["num_slots"].to_pylist()),
                  "num_blocks": len(moved), "num_moved": sum(map(bool, moved)), "pictures": shown}
    return pa.Table.from_pylist([row], schema=REPORT)


def _examples(rows: pa.Table) -> list[dict[str, Any]]:
    """The first row of each reason code."""
    rejected = rows.select(["error", "shard", "index", "key"]).filter(rows["error"].is_valid())
    return list({row["error"]: row for row in reversed(rejected.to_pylist())}.values())


def encode(pieces: Iterable[pa.Table], embeddings: str, footer: dict[str, str] | None = None) -> bytes:
    """A Parquet file: zstd, dictionaries for text and ids only, no statistics of embeddings, page index.

    Of the pieces some thousand rows are held at a time. Footers get `num_rows` and `num_rejected` added.
    """
    buffer, schema = io.BytesIO(), file_schema(embeddings)
    num_rows = num_rejected = 0
    with pq.ParquetWriter(buffer, schema, compression="zstd", use_dictionary=_TEXT_AND_IDS,
                          write_statistics=_WITH_STATISTICS, write_page_index=True) as writer:
        for group in _groups(pieces):
            writer.write_table(group.select(schema.names).cast(schema))
            num_rows += group.num_rows
            num_rejected += group.num_rows - group["error"].null_count
        if footer:
            writer.add_key_value_metadata({**footer, "num_rows": str(num_rows), "num_rejected": str(num_rejected)})
    return buffer.getvalue()


def _groups(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of all pieces as tables of a row group each."""
    held: list[pa.Table] = []
    for piece in pieces:
        held.append(piece.replace_schema_metadata())
        if sum(piece.num_rows for piece in held) >= GROUP_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _whole(names: list[str]) -> list[tuple[str, int]] | None:
    """The pieces that make the shard from row 0 to its end, in order, and how many rows of each to skip; None while some are missing.

    Two attempts may have cut the shard in different places: their pieces overlap, and have the same rows where they do.
    """
    pieces = sorted((int(match[1]), int(match[2]), bool(match[3]), name)
                    for name in names if (match := _PIECE.search(name)))
    stop = next((last for _, last, end, _ in pieces if end), None)
    chosen: list[tuple[str, int]] = []
    position = -1 if stop == 0 else 0  # a shard of no rows has one piece of none
    while stop is not None and position < stop:
        reach, first, name = max(((last, first, name) for first, last, _, name in pieces if first <= max(0, position)),
                                 default=(position, 0, ""))
        if reach <= position:
            return None
        chosen.append((name, max(0, position) - first))
        position = reach
    return chosen or None
