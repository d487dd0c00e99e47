"""What the sink reports to the run: the schema `REPORT`, its dataclasses, and the functions that write and read it.

A report is a table of one row for one block or several: their segments with counts, and what the labeller reports.
Through Ray a report travels as Arrow. The driver converts each table once, with `read_reports`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.report.gallery import PICTURES
from pipeline.stages.batch import LABELLING_FIELDS, SEGMENT_FIELDS
from pipeline.tables.counts import CONFIDENCE, LABELS, REJECTED, Counts
from pipeline.tables.labels import ROWS

REPORT = pa.schema([
    ("segments", pa.list_(pa.struct([
        *SEGMENT_FIELDS,
        ("num_rejected", pa.int64()),  # with num_images, this and the next three are the `Counts` of the segment
        ("rejected", REJECTED),
        ("labels", LABELS),
        ("confidence", CONFIDENCE),
        ("label_s", pa.float64()),     # the segment's share of the block's
        ("examples", pa.list_(pa.struct([ROWS.field(name) for name in ("error", "shard", "index", "key")]))),
        ("file_size", pa.int64()),     # of the committed file, if the shard is complete; else null
        ("file_etag", pa.string()),
    ]))),
    *LABELLING_FIELDS,
    ("num_blocks", pa.int32()),
    ("num_moved", pa.int32()),         # blocks that were labelled on another node than decoded
    ("pictures", PICTURES),
])


@dataclass(slots=True)
class SegmentReport:
    """The samples of one shard in one report: the fields of `batch.SEGMENT_FIELDS`, and the result.

    `label_s`: seconds of the labeller. `examples`: the first image that was rejected for each reason. `file_size`,
    `file_etag`: of the committed file; None while the shard is not complete.
    """

    number: int
    shard: str
    uri: str
    size: int
    etag: str
    first: int
    num_images: int
    end: bool
    failure: str | None
    retryable: bool
    num_bytes: int
    decode_s: float
    left_out: list[dict[str, Any]]
    counts: Counts
    label_s: float
    examples: list[dict[str, Any]]
    file_size: int | None
    file_etag: str | None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> SegmentReport:
        """A segment of a row of `REPORT`."""
        return cls(number=row["number"], shard=row["shard"], uri=row["uri"], size=row["size"], etag=row["etag"],
                   first=row["first"], num_images=row["num_images"], end=row["end"], failure=row["failure"],
                   retryable=row["retryable"], num_bytes=row["num_bytes"], decode_s=row["decode_s"],
                   left_out=row["left_out"], counts=Counts.from_columns(row), label_s=row["label_s"],
                   examples=row["examples"], file_size=row["file_size"], file_etag=row["file_etag"])

    def to_row(self) -> dict[str, Any]:
        """The segment as a row of `REPORT` has it."""
        return {"number": self.number, "shard": self.shard, "uri": self.uri, "size": self.size, "etag": self.etag,
                "first": self.first, "end": self.end, "failure": self.failure, "retryable": self.retryable,
                "num_bytes": self.num_bytes, "decode_s": self.decode_s, "left_out": self.left_out,
                **self.counts.to_columns(), "num_images": self.num_images, "label_s": self.label_s,
                "examples": self.examples, "file_size": self.file_size, "file_etag": self.file_etag}


@dataclass(slots=True)
class Report:
    """A row of `REPORT`. `precision`, `runner`, `runner_note`: None if no block reached a labeller."""

    segments: list[SegmentReport]
    label_s: float
    num_slots: int
    precision: str | None
    runner: str | None
    runner_note: str | None
    num_blocks: int
    num_moved: int
    pictures: list[dict[str, Any]]

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Report:
        """A row of `REPORT` as a dict."""
        return cls(segments=[SegmentReport.from_row(segment) for segment in row["segments"]], label_s=row["label_s"],
                   num_slots=row["num_slots"], precision=row["precision"], runner=row["runner"],
                   runner_note=row["runner_note"], num_blocks=row["num_blocks"], num_moved=row["num_moved"],
                   pictures=row["pictures"])

    def to_table(self) -> pa.Table:
        """The report as a table of `REPORT`."""
        row = {"segments": [segment.to_row() for segment in self.segments], "label_s": self.label_s,
               "num_slots": self.num_slots, "precision": self.precision, "runner": self.runner,
               "runner_note": self.runner_note, "num_blocks": self.num_blocks, "num_moved": self.num_moved,
               "pictures": self.pictures}
        return pa.Table.from_pylist([row], schema=REPORT)


def read_reports(table: pa.Table) -> Iterator[Report]:
    """The reports of a table of `REPORT`."""
    return map(Report.from_row, table.to_pylist())
