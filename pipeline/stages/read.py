"""The first stage: shards -> blocks of pixels.

In: a table with one shard a row (`number`, `shard`, `uri`; `group` for loose images). Out: tables of `BLOCK`, streamed while
the shards are still being read. The calling thread reads, a thread pool decodes each image straight into its slot.

Small shards share a block, so that a GPU gets full batches. A block ends where a shard ends, if it is large enough and fills
its batches; a shard that is larger than a block goes on in the next. A shard without samples is a segment of none. A shard that
cannot be read to its end closes with a segment that has `failure` set; its rows must not be published as if they were all.
Not here: normalising, the network.
"""

from __future__ import annotations

import hashlib
import time
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.formats.left_out import LeftOut
from pipeline.formats.tar import Sample
from pipeline.images.decode import Decoded, decode
from pipeline.inputs.find import Inputs
from pipeline.memory import keep_freed_memory
from pipeline.model.spec import INPUT_SIZE
from pipeline.stages.batch import BLOCK, pack_block
from pipeline.stages.failures import describe_failure, tell_failures
from pipeline.stages.node import this_node
from pipeline.store.retry import is_retryable

TOGETHER = 8  # images of one task of the pool: a task for each costs 5 % of decoding
AHEAD_EACH = 3  # tasks that wait for each thread of the pool
HELD_BYTES = 2**27  # of encoded images that wait to be decoded; a block of large ones would be gigabytes
WASTE = 0.05  # of the last batch's slots, as a share of all: a block that fills its batches better may end


@dataclass(frozen=True, slots=True)
class _Done:
    """A sample without its bytes. `sha256`: of the bytes, None if they were not read. `seconds`: of decoding."""

    index: int
    key: str
    num_bytes: int
    sha256: str | None
    decoded: Decoded
    seconds: float


@dataclass
class _Segment:
    """Samples of one shard in one block. `source`: the shard and the version that is read, the same in all its segments."""

    source: dict[str, Any]
    first: int
    num_images: int = 0
    end: bool = False
    failure: str | None = None
    retryable: bool = False
    left_out: list[dict[str, Any]] = field(default_factory=list)
    decoding: list[tuple[int, Future[list[_Done]]]] = field(default_factory=list)  # so many samples each

    def fail(self, error: Exception) -> None:
        self.failure, self.retryable = describe_failure(error), is_retryable(error)


class Reader:
    """The stage: a callable, a table of shards in, tables of `BLOCK` out. Two calls at once share the pool.

    Args:
        batch_size: images that the device takes at once.
        block_size: images of a block, at most.
        num_threads: of the decode pool.
        max_image_pixels: above which an image is rejected as `too_large`.
        inputs: how samples are read, and how large they may be.
        reduce: decode large JPEGs at a reduced scale.
    """

    def __init__(self, batch_size: int, block_size: int, num_threads: int, max_image_pixels: int, inputs: Inputs,
                 reduce: bool = True) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)  # each thread of the pool resizes by itself
        self.batch_size = batch_size
        self.block_size = block_size
        self.num_threads = num_threads
        self.max_image_pixels = max_image_pixels
        self.inputs = inputs
        self.reduce = reduce
        self.pool = ThreadPoolExecutor(num_threads, "decode")
        self.node = this_node()
        self.free: list[np.ndarray] = []

    @tell_failures(BLOCK)
    def __call__(self, shards: pa.Table) -> Iterator[pa.Table]:
        blocks = _Blocks(self)
        for row in shards.to_pylist():
            source = {"number": row["number"], "shard": row["shard"], "uri": row["uri"], "size": 0, "etag": ""}
            left_out = LeftOut()
            try:
                with self.inputs.open(row["uri"], row.get("group"), left_out) as (samples, version):
                    source |= {"size": version.size, "etag": version.etag}
                    for sample in samples:
                        blocks.add(source, sample)
                        yield from blocks.take_decoded()
            except Exception as error:  # noqa: BLE001  # a store may fail in any way; the run goes on without this shard
                blocks.end(source, error, left_out)
            else:
                blocks.end(source, None, left_out)
            yield from blocks.take_decoded()
        yield from blocks.take_rest()

    def memory(self) -> np.ndarray:
        """Room for a block, uint8 [block_size, 299, 299, 3]; free for another once nobody holds the returned array.

        Fresh memory costs 4 % of decoding: the kernel clears each page of it.
        """
        try:
            memory = self.free.pop()
        except IndexError:
            memory = np.empty((self.block_size, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        lent = memory.view()
        weakref.finalize(lent, self.free.append, memory)
        return lent

    def submit(self, samples: list[Sample], pixels_NHWC: np.ndarray, start: int) -> Future[list[_Done]]:
        """Decode samples into the slots from `start` on; the task holds the array itself, so its memory is not free before."""
        return self.pool.submit(
            lambda: [self._decode(sample, pixels_NHWC[slot]) for slot, sample in enumerate(samples, start)])

    def _decode(self, sample: Sample, slot_HWC: np.ndarray) -> _Done:
        begun = time.perf_counter()
        if sample.error is None:
            decoded = decode(sample.encoded, slot_HWC, max_pixels=self.max_image_pixels,
                             max_bytes=self.inputs.max_image_bytes, reduce=self.reduce)
        else:
            slot_HWC[...] = 0
            decoded = Decoded(None, None, sample.error)
        sha256 = None if sample.error else hashlib.sha256(sample.encoded).hexdigest()
        return _Done(sample.index, sample.key, len(sample.encoded), sha256, decoded, time.perf_counter() - begun)


class _Blocks:
    """The blocks of one call: one that is being filled, and those that are closed but not yet decoded."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.filling: _Block | None = None
        self.closed: deque[_Block] = deque()
        self.waiting: list[Sample] = []  # of the last segment, for one task of the pool
        self.ahead: deque[tuple[Future[list[_Done]], int]] = deque()  # what is being decoded, with its encoded bytes
        self.held_bytes = 0

    def add(self, source: dict[str, Any], sample: Sample) -> None:
        """Take the next sample of a shard."""
        if self.filling is not None and self.filling.num_images == self.reader.block_size:
            self._close()
        if self.filling is None:
            self.filling = _Block(self.reader)
        segment = self.filling.segment(source, sample.index)
        segment.num_images += 1
        self.filling.num_images += 1
        self.waiting.append(sample)
        if len(self.waiting) == TOGETHER:
            self._decode_waiting()

    def end(self, source: dict[str, Any], error: Exception | None, left_out: LeftOut) -> None:
        """The shard has no more samples, or broke."""
        self._decode_waiting()
        if self.filling is None:
            self.filling = _Block(self.reader)
        segment = self.filling.segment(source, 0)
        segment.left_out = left_out.rows()
        if error is None:
            segment.end = True
        else:
            segment.fail(error)
        if self.filling.may_end():
            self._close()

    def take_decoded(self) -> Iterator[pa.Table]:
        """The closed blocks that are decoded; of several the first, after waiting for it."""
        while self.closed and (len(self.closed) > 1 or self.closed[0].is_decoded()):
            yield self.closed.popleft().table()

    def take_rest(self) -> Iterator[pa.Table]:
        """All that is left."""
        if self.filling is not None:
            self._close()
        while self.closed:
            yield self.closed.popleft().table()

    def _close(self) -> None:
        self._decode_waiting()
        assert self.filling is not None
        self.closed.append(self.filling)
        self.filling = None

    def _decode_waiting(self) -> None:
        """Give what waits to the pool, and wait while the pool has enough to do."""
        if not self.waiting or self.filling is None:
            return
        task = self.reader.submit(self.waiting, self.filling.pixels_NHWC, self.filling.num_images - len(self.waiting))
        self.filling.segments[-1].decoding.append((len(self.waiting), task))
        num_bytes = sum(len(sample.encoded) for sample in self.waiting)
        self.ahead.append((task, num_bytes))
        self.held_bytes += num_bytes
        self.waiting = []
        while self.ahead and (self.ahead[0][0].done() or self.held_bytes > HELD_BYTES
                              or len(self.ahead) > AHEAD_EACH * self.reader.num_threads):
            task, num_bytes = self.ahead.popleft()
            wait([task])
            self.held_bytes -= num_bytes


class _Block:
    """A block that is being filled, or decoded."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.pixels_NHWC = reader.memory()
        self.num_images = 0
        self.segments: list[_Segment] = []

    def segment(self, source: dict[str, Any], first: int) -> _Segment:
        """The segment of a shard; a new one from index `first` on, if the shard has none here."""
        if not self.segments or self.segments[-1].source is not source:
            self.segments.append(_Segment(source, first))
        return self.segments[-1]

    def may_end(self) -> bool:
        """Whether it is large enough, and fills the device's batches."""
        wasted = -self.num_images % self.reader.batch_size
        return 2 * self.num_images >= self.reader.block_size and wasted <= WASTE * (self.num_images + wasted)

    def is_decoded(self) -> bool:
        return all(task.done() for segment in self.segments for _, task in segment.decoding)

    def table(self) -> pa.Table:
        """The block as a table of `BLOCK`; waits for its images."""
        samples: dict[str, list[Any]] = {name: [] for name in ("index", "key", "width", "height", "sha256", "error")}
        segments = []
        for segment in self.segments:
            done = [one for number, task in segment.decoding for one in _results(segment, number, task)]
            samples["index"] += range(segment.first, segment.first + segment.num_images)
            samples["key"] += [one.key for one in done]
            samples["width"] += [one.decoded.width for one in done]
            samples["height"] += [one.decoded.height for one in done]
            samples["sha256"] += [one.sha256 for one in done]
            samples["error"] += [one.decoded.error for one in done]
            segments.append({**segment.source, "first": segment.first, "num_images": segment.num_images, "end": segment.end,
                             "failure": segment.failure, "retryable": segment.retryable, "left_out": segment.left_out,
                             "num_bytes": sum(one.num_bytes for one in done), "decode_s": sum(one.seconds for one in done)})
        return pack_block(segments, samples, self.pixels_NHWC, self.reader.node)


def _results(segment: _Segment, number: int, task: Future[list[_Done]]) -> list[_Done]:
    """What the pool made of so many samples. If that failed, so has the segment, and nothing stands in their place."""
    try:
        return task.result()
    except Exception as error:  # noqa: BLE001  # MemoryError, or a fault of our own
        segment.fail(error)
        return [_Done(0, "", 0, None, Decoded(None, None, "failed"), 0.0)] * number
