"""A block while it collects samples: segments of shards, the decoding of their images, and the memory for the pixels.

In: samples by their shard, and the futures of their decoding. Out: a table of `BLOCK`. A block starts no work itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.images.decode import Decoded
from pipeline.stages.batch import pack_block
from pipeline.stages.decode_pool import DecodedSample, Pixels
from pipeline.stages.failures import describe_failure
from pipeline.store.retry import is_retryable
from pipeline.tables.label_files import ShardVersion

WASTE = 0.05  # share of a block's batch slots that may stay empty where the block ends


@dataclass
class PendingShard:
    """A shard that is read.

    `number`: its index among the pending shards of the run. `version`: the version that is read; until the shard is
    opened, of size 0 and without an etag.
    """

    number: int
    version: ShardVersion


@dataclass
class Segment:
    """The samples of one shard in one block.

    `first`: index of the first sample in its shard. `end`: these samples are the last of the shard. `failure`: why
    the shard cannot be read to its end. `decodings`: futures, each with the number of its samples.
    """

    shard: PendingShard
    first: int
    num_images: int = 0
    end: bool = False
    failure: str | None = None
    retryable: bool = False
    left_out: list[dict[str, Any]] = field(default_factory=list)
    decodings: list[tuple[int, Future[list[DecodedSample]]]] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        """Mark the shard as one that cannot be read to its end."""
        self.failure, self.retryable = describe_failure(error), is_retryable(error)

    def wait_for_samples(self) -> Iterator[DecodedSample]:
        """The decoded samples, in order.

        If a task of the pool failed, the segment fails, and placeholders keep the places.
        """
        for num_images, future in self.decodings:
            error = future.exception()  # MemoryError, or a fault of our own
            if error is None:
                yield from future.result()
            elif isinstance(error, Exception):
                self.fail(error)
                yield from [DecodedSample("", 0, None, Decoded(None, None, "failed"), 0.0)] * num_images
            else:
                raise error

    def describe(self, samples: list[DecodedSample]) -> dict[str, Any]:
        """The segment as a dict of `SEGMENT`, with the sums over its decoded samples."""
        version = self.shard.version
        return {"number": self.shard.number, "shard": version.shard, "uri": version.uri, "size": version.size,
                "etag": version.etag, "first": self.first, "num_images": self.num_images, "end": self.end,
                "failure": self.failure, "retryable": self.retryable, "left_out": self.left_out,
                "num_bytes": sum(sample.num_bytes for sample in samples),
                "decode_s": sum(sample.seconds for sample in samples)}


class PixelBlock:
    """A block that collects samples.

    Args:
        pixels_NHWC: memory for the images, uint8 [block_size, 299, 299, 3].
    """

    def __init__(self, pixels_NHWC: Pixels) -> None:
        self.pixels_NHWC = pixels_NHWC
        self.num_images = 0
        self.segments: list[Segment] = []

    def is_full(self) -> bool:
        """Whether the block has no slot left."""
        return self.num_images == len(self.pixels_NHWC)

    def add_sample(self, shard: PendingShard, index: int) -> None:
        """Reserve the next slot for a sample of a shard."""
        self.find_segment(shard, index).num_images += 1
        self.num_images += 1

    def find_segment(self, shard: PendingShard, first: int) -> Segment:
        """The segment of the shard that is read now. A new segment starts at index `first`."""
        if not self.segments or self.segments[-1].shard is not shard:
            self.segments.append(Segment(shard, first))
        return self.segments[-1]

    def may_end(self, batch_size: int) -> bool:
        """Whether the block is at least half full, and fills the batches of the device."""
        num_empty = -self.num_images % batch_size
        return 2 * self.num_images >= len(self.pixels_NHWC) and num_empty <= WASTE * (self.num_images + num_empty)

    def is_decoded(self) -> bool:
        """Whether all images are decoded."""
        return all(future.done() for segment in self.segments for _, future in segment.decodings)

    def to_table(self, node: str) -> pa.Table:
        """The block as a table of `BLOCK`, after waiting for its images. `node`: where they are decoded."""
        samples: list[DecodedSample] = []
        indices: list[int] = []
        segments = []
        for segment in self.segments:
            of_segment = list(segment.wait_for_samples())
            samples += of_segment
            indices += range(segment.first, segment.first + segment.num_images)
            segments.append(segment.describe(of_segment))
        columns: dict[str, list[Any]] = {
            "index": indices, "key": [sample.key for sample in samples],
            "width": [sample.decoded.width for sample in samples],
            "height": [sample.decoded.height for sample in samples],
            "sha256": [sample.sha256 for sample in samples], "error": [sample.decoded.error for sample in samples]}
        kept = [sample.kept for sample in samples] if any(sample.kept for sample in samples) else None
        return pack_block(segments, columns, self.pixels_NHWC, node, kept)
