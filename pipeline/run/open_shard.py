"""What is reported of one version of a shard, until all is reported.

In: segments of reports. Out: a row of the table `shards`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.stages.reports import SegmentReport
from pipeline.tables.counts import Counts
from pipeline.tables.ledger_rows import ShardRow
from pipeline.tables.table_paths import table_path


@dataclass(slots=True)
class OpenShard:
    """A version of a shard of which something is reported, and not yet all.

    `source_*`: None if nobody reported the shard. `num_expected`: images of the shard; None until its last segment
    is reported.
    """

    shard: str
    source_uri: str | None = None
    source_size: int | None = None
    source_etag: str | None = None
    counts: Counts = field(default_factory=Counts)
    image_bytes: int = 0
    decode_s: float = 0.0
    label_s: float = 0.0
    num_expected: int | None = None
    left_out: list[dict[str, Any]] | None = None
    file: str | None = None
    file_size: int | None = None
    file_etag: str | None = None

    def add(self, segment: SegmentReport) -> None:
        """Count a segment."""
        self.image_bytes += segment.num_bytes
        self.decode_s += segment.decode_s
        self.label_s += segment.label_s
        if segment.failure is None:
            self.counts.add(segment.counts)
        if segment.end:
            self.num_expected, self.left_out = segment.first + segment.num_images, segment.left_out
        if segment.file_size is not None:
            self.file, self.file_size, self.file_etag = table_path(segment.shard), segment.file_size, segment.file_etag

    def is_whole(self) -> bool:
        """Whether all images are reported, and the file is there."""
        return self.file is not None and self.counts.num_images == self.num_expected

    def to_row(self, run_id: str, model_id: str, status: str, failure: str | None) -> ShardRow:
        """The row of the shard, labelled now. `status`: `committed` or `failed`. `failure`: why it failed."""
        left_out = self.left_out
        return ShardRow(
            run_id=run_id, shard=self.shard, source_uri=self.source_uri, source_size=self.source_size,
            source_etag=self.source_etag, model_id=model_id, status=status, failure=failure,
            num_images=self.counts.num_images, num_rejected=self.counts.rejected.total(),
            rejected=self.counts.list_rejected(), left_out=left_out,
            num_left_out=None if left_out is None else sum(entry["num_files"] for entry in left_out),
            image_bytes=self.image_bytes, decode_s=self.decode_s, label_s=self.label_s, file=self.file,
            file_size=self.file_size, file_etag=self.file_etag, labelled_at=datetime.now(UTC))
