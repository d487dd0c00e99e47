"""The third stage: blocks of answers -> rows in the files of their shards, and a report.

In: tables of `LABELLED`. Out: a table of `REPORT`; the files are in the output.
Not here: how a file becomes whole (`sink`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import CaughtError
from pipeline.formats.kept import KEPT
from pipeline.report.gallery import make_pictures
from pipeline.stages.batch import answers_of, kept_of, samples_of, segments_of
from pipeline.stages.failures import describe_failure, report_failures
from pipeline.stages.reports import REPORT, Report, SegmentReport
from pipeline.stages.sink import Sink
from pipeline.store.retry import is_retryable
from pipeline.store.versions import File
from pipeline.tables.counts import Counts
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import make_rows, split_answers


@dataclass
class Piece:
    """Neighbouring rows of a shard.

    `segment`: a dict of `SEGMENT`, of the rows together. `label_s`: seconds of the labeller.
    """

    segment: dict[str, Any]
    label_s: float
    rows: pa.Table


class Committer:
    """The stage: a callable, a table of `LABELLED` in (one row or several), a table of `REPORT` out.

    Neighbours of one shard, in one block or in several, are one piece, so a shard that is here as a whole is put at
    once. The stage is an actor, since a process for each task costs seconds of imports.

    Args:
        sink: where the rows go.
        labels: the label of each label_id.
    """

    def __init__(self, sink: Sink, labels: list[str]) -> None:
        self.sink = sink
        self.labels = pa.array(labels, pa.string())

    @report_failures(REPORT)
    def __call__(self, blocks: pa.Table) -> pa.Table:
        pieces: list[Piece] = []
        pictures: list[dict[str, Any]] = []
        for row in range(blocks.num_rows):
            rows = self._make_rows(blocks, row)
            pictures += make_pictures(rows, blocks["pictures"][row].as_py())
            pieces += _cut(segments_of(blocks, row), rows, blocks["label_s"][row].as_py())
        failed = [piece for piece in pieces if piece.segment["failure"] is not None]
        numbers_failed = {piece.segment["number"] for piece in failed}
        whole = [piece for piece in pieces if piece.segment["number"] not in numbers_failed]
        segments = [self.commit(piece) for piece in _join_neighbours(whole)]
        segments += [_describe_failed(piece) for piece in failed]
        return _make_report(blocks, segments, pictures).to_table()

    def _make_rows(self, blocks: pa.Table, row: int) -> pa.Table:
        """The rows of one block, as a table of `ROWS`; with `--keep` and a column `kept` of `KEPT`."""
        samples = samples_of(blocks, row)
        if not samples.num_rows:
            return self.sink.no_rows()
        rows = make_rows(samples, split_answers(answers_of(blocks, row, samples.num_rows)), self.labels)
        if not self.sink.keep:
            return rows
        kept = kept_of(blocks, row)
        return rows.append_column("kept", kept if len(kept) else pa.nulls(len(rows), KEPT))

    def commit(self, piece: Piece) -> SegmentReport:
        """Give a piece to the sink, and describe what became of the piece."""
        segment, failure, retryable = piece.segment, None, False
        file: File | None = None
        source = ShardVersion(segment["shard"], segment["uri"], segment["size"], segment["etag"])
        with CaughtError() as caught:  # the run goes on without a shard that the store does not take
            file = self.sink.write(source, piece.rows, segment["first"], segment["end"])
        if caught.error is not None:
            failure, retryable = describe_failure(caught.error), is_retryable(caught.error)
        return _describe(piece, failure, retryable, Counts.count_rows(piece.rows), _find_examples(piece.rows), file)


def _cut(segments: list[dict[str, Any]], rows: pa.Table, label_s: float) -> list[Piece]:
    """The rows of a block, a piece for each segment. Each piece gets its share of the labeller's seconds."""
    pieces, at = [], 0
    for segment in segments:
        num_images = segment["num_images"]
        pieces.append(Piece(segment, label_s * num_images / max(1, rows.num_rows), rows.slice(at, num_images)))
        at += num_images
    return pieces


def _join_neighbours(pieces: list[Piece]) -> list[Piece]:
    """The pieces, shard by shard, with neighbours joined."""
    by_version: dict[tuple[int, str], list[Piece]] = {}
    for piece in pieces:
        by_version.setdefault((piece.segment["number"], piece.segment["etag"]), []).append(piece)
    return [piece for of_version in by_version.values() for piece in _join(of_version)]


def _join(pieces: list[Piece]) -> list[Piece]:
    """The pieces of one version of a shard, with neighbours joined."""
    joined: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: int(piece.segment["first"])):
        before = joined[-1] if joined else None
        if before and before.segment["first"] + before.segment["num_images"] == piece.segment["first"]:
            sums = {name: before.segment[name] + piece.segment[name]
                    for name in ("num_images", "num_bytes", "decode_s")}
            last = {name: piece.segment[name] for name in ("end", "left_out")}
            joined[-1] = Piece(before.segment | sums | last, before.label_s + piece.label_s,
                               pa.concat_tables([before.rows, piece.rows]))
        else:
            joined.append(piece)
    return joined


def _describe_failed(piece: Piece) -> SegmentReport:
    """The report of a segment that failed before this stage: its images do not count, but the time that they took does.
    """
    segment = piece.segment
    emptied = Piece(segment | {"end": False}, piece.label_s, piece.rows)
    return _describe(emptied, segment["failure"], segment["retryable"], Counts(), [], None)


def _describe(piece: Piece, failure: str | None, retryable: bool, counts: Counts, examples: list[dict[str, Any]],
              file: File | None) -> SegmentReport:
    """The report of a piece. `file`: the committed file, if the piece completed the shard."""
    segment = piece.segment
    return SegmentReport(
        number=segment["number"], shard=segment["shard"], uri=segment["uri"], size=segment["size"],
        etag=segment["etag"], first=segment["first"], num_images=counts.num_images, end=segment["end"],
        failure=failure, retryable=retryable, num_bytes=segment["num_bytes"], decode_s=segment["decode_s"],
        left_out=segment["left_out"], counts=counts, label_s=piece.label_s, examples=examples,
        file_size=file.size if file else None, file_etag=file.etag if file else None)


def _make_report(blocks: pa.Table, segments: list[SegmentReport], pictures: list[dict[str, Any]]) -> Report:
    """The report of some rows of `LABELLED`."""
    moved = blocks["moved"].to_pylist()
    precision, runner, runner_note = (blocks[name][-1].as_py() if blocks.num_rows else None
                                      for name in ("precision", "runner", "runner_note"))
    return Report(segments=segments, label_s=sum(blocks["label_s"].to_pylist()),
                  num_slots=sum(blocks["num_slots"].to_pylist()), precision=precision, runner=runner,
                  runner_note=runner_note, num_blocks=len(moved), num_moved=sum(map(bool, moved)), pictures=pictures)


def _find_examples(rows: pa.Table) -> list[dict[str, Any]]:
    """The first row of each reason code."""
    rejected = rows.select(["error", "shard", "index", "key"]).filter(rows["error"].is_valid())
    return list({row["error"]: row for row in reversed(rejected.to_pylist())}.values())
