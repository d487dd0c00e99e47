"""The samples of one call of the reader -> blocks, while the pool decodes.

In: samples, shard after shard. Out: tables of `BLOCK`, in the order of the samples.
Small shards share a block, so that a GPU gets full batches. A block ends where a shard ends, if the block is large
enough and fills its batches. A shard that is larger than a block goes on in the next block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait

import pyarrow as pa

from pipeline.formats.left_out import LeftOut
from pipeline.formats.samples import Sample
from pipeline.stages.decode_pool import BlockMemory, DecodedSample, DecodePool
from pipeline.stages.pixel_block import PendingShard, PixelBlock

SAMPLES_A_TASK = 8  # for the pool; a task for each sample costs 5 % of decoding
TASKS_AHEAD = 3  # that wait for each thread of the pool
WAITING_BYTES = 2**27  # of encoded images that may wait for the pool; a whole block of large images takes gigabytes


class BlockFiller:
    """The block that is filled now, and the closed blocks whose images are not all decoded.

    Args:
        batch_size: images that the device takes at once.
        node: where the images are decoded.
    """

    def __init__(self, pool: DecodePool, memory: BlockMemory, batch_size: int, node: str) -> None:
        self.pool = pool
        self.memory = memory
        self.batch_size = batch_size
        self.node = node
        self.filling: PixelBlock | None = None
        self.closed: deque[PixelBlock] = deque()
        self.waiting: list[Sample] = []  # of the last segment; together they are one task of the pool
        self.tasks: deque[tuple[Future[list[DecodedSample]], int]] = deque()  # each with its encoded bytes
        self.task_bytes = 0

    def add(self, shard: PendingShard, sample: Sample) -> None:
        """Take the next sample of a shard."""
        if self.filling is not None and self.filling.is_full():
            self._close()
        self._open().add_sample(shard, sample.index)
        self.waiting.append(sample)
        if len(self.waiting) == SAMPLES_A_TASK:
            self._decode_waiting()

    def end_shard(self, shard: PendingShard, error: Exception | None, left_out: LeftOut) -> None:
        """Mark the end of a shard. `error`: why the shard cannot be read to its end; its rows must not be published."""
        self._decode_waiting()
        block = self._open()
        segment = block.find_segment(shard, 0)
        segment.left_out = left_out.rows()
        if error is None:
            segment.end = True
        else:
            segment.fail(error)
        if block.may_end(self.batch_size):
            self._close()

    def take_decoded(self) -> Iterator[pa.Table]:
        """The closed blocks that are decoded. Where several are closed, this waits for all but the last."""
        while self.closed and (len(self.closed) > 1 or self.closed[0].is_decoded()):
            yield self.closed.popleft().to_table(self.node)

    def take_rest(self) -> Iterator[pa.Table]:
        """All blocks that are left, after waiting for their images."""
        if self.filling is not None:
            self._close()
        while self.closed:
            yield self.closed.popleft().to_table(self.node)

    def _open(self) -> PixelBlock:
        if self.filling is None:
            self.filling = PixelBlock(self.memory.lend())
        return self.filling

    def _close(self) -> None:
        self._decode_waiting()
        self.closed.append(self._open())
        self.filling = None

    def _decode_waiting(self) -> None:
        """Give the waiting samples to the pool; then wait while the pool has enough to do."""
        if not self.waiting:
            return
        block = self._open()
        future = self.pool.submit(self.waiting, block.pixels_NHWC, block.num_images - len(self.waiting))
        block.segments[-1].decodings.append((len(self.waiting), future))
        num_bytes = sum(len(sample.encoded) for sample in self.waiting)
        self.tasks.append((future, num_bytes))
        self.task_bytes += num_bytes
        self.waiting = []
        while self.tasks and (self.tasks[0][0].done() or self.task_bytes > WAITING_BYTES
                              or len(self.tasks) > TASKS_AHEAD * self.pool.num_threads):
            future, num_bytes = self.tasks.popleft()
            wait([future])
            self.task_bytes -= num_bytes
