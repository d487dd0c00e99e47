"""The first stage: shards -> batches of pixels.

In: a table with one shard a row (`shard`, `uri`; `group` for loose images). Out: tables of `BATCH` with one batch a row, streamed while the shard
is still being read. The main thread reads the shard at most one batch ahead, a thread pool decodes each image straight
into its slot of the batch.
The last batch of a shard has `end` set. A shard without samples is one batch of none. A shard that cannot be read to
its end closes with a batch that has `failure` set and no samples; its rows must not be published as if they were all.
Not here: normalising, the network.
"""

from __future__ import annotations

import hashlib
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.batches import BATCH
from pipeline.decode import Decoded, decode
from pipeline.inception_v4 import INPUT_SIZE
from pipeline.inputs import Inputs
from pipeline.memory import keep_freed_memory
from pipeline.retry import may_pass, told
from pipeline.shards import Sample

IMAGE_BYTES = INPUT_SIZE * INPUT_SIZE * 3
NO_PIXELS = np.empty((0, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
TOGETHER = 8  # images of one task of the pool: a task for each costs 5 % of decoding

HELD_BYTES = 2**27  # of encoded images of a shard that wait to be decoded; a batch of large ones would be gigabytes

_Few = Future[list["_Done"]]


@dataclass(frozen=True, slots=True)
class _Done:
    """A sample without its bytes. `sha256`: of the bytes, None if they were not read. `seconds`: of decoding."""

    index: int
    key: str
    num_bytes: int
    sha256: str | None
    decoded: Decoded
    seconds: float


class Reader:
    """The stage: a callable, a table of shards in, tables of `BATCH` out.

    Args:
        batch_size: images a batch.
        num_threads: of the decode pool.
        max_image_pixels: above which an image is rejected as `too_large`.
        inputs: how samples are read, and how large they may be.
        reduce: decode large JPEGs at a reduced scale.
    """

    def __init__(self, batch_size: int, num_threads: int, max_image_pixels: int, inputs: Inputs,
                 reduce: bool = True) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)  # each thread of the pool resizes by itself
        self.batch_size = batch_size
        self.max_image_pixels = max_image_pixels
        self.inputs = inputs
        self.reduce = reduce
        self.pool = ThreadPoolExecutor(num_threads, "decode")
        self.free: list[np.ndarray] = []

    def __call__(self, shards: pa.Table) -> Iterator[pa.Table]:
        for row in shards.to_pylist():
            yield from self._read(row["shard"], row["uri"], row.get("group"))

    def _read(self, shard: str, uri: str, group: dict[str, Any] | None) -> Iterator[pa.Table]:
        started: deque[_Batch] = deque()
        source: dict[str, Any] = {"shard": shard, "uri": uri, "size": 0, "etag": ""}
        try:
            with self.inputs.open(uri, group) as (samples, version):
                source |= {"size": version.size, "etag": version.etag}
                for sample in samples:
                    if not started or started[-1].full:
                        started.append(_Batch(source, sample.index, self._memory(), self._submit))
                        if len(started) > 2:
                            yield started.popleft().table()
                    started[-1].add(sample)
                    if sum(batch.held_bytes for batch in started) > HELD_BYTES:
                        for batch in started:
                            batch.wait()
        except Exception as error:  # noqa: BLE001  # a store may fail in any way; the run goes on without this shard
            for batch in started:
                batch.abandon()
            yield _Batch(source, 0, NO_PIXELS, self._submit).table(failure=told(error), passing=may_pass(error))
            return
        if not started:
            started.append(_Batch(source, 0, NO_PIXELS, self._submit))
        while started:
            batch = started.popleft()
            yield batch.table(end=not started)

    def _memory(self) -> np.ndarray:
        """Room for a batch, uint8 [batch_size, 299, 299, 3]; free for another once nobody holds the returned array.

        Fresh memory costs 4 % of decoding: the kernel clears each page of it.
        """
        try:
            memory = self.free.pop()
        except IndexError:
            memory = np.empty((self.batch_size, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        lent = memory.view()
        weakref.finalize(lent, self.free.append, memory)
        return lent

    def _submit(self, samples: list[Sample], pixels_NHWC: np.ndarray, first: int) -> _Few:
        """Decode samples into the slots from `first` on; the task holds the array itself, so its memory is not free."""
        return self.pool.submit(
            lambda: [self._decode(sample, pixels_NHWC[slot]) for slot, sample in enumerate(samples, first)])

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


class _Batch:
    """A batch whose images are being decoded, a few in one task of the pool."""

    def __init__(self, source: dict[str, Any], first: int, pixels_NHWC: np.ndarray,
                 submit: Callable[[list[Sample], np.ndarray, int], _Few]) -> None:
        self.source = source
        self.first = first
        self.submit = submit
        self.pixels_NHWC = pixels_NHWC
        self.num_samples = 0
        self.held_bytes = 0
        self.waiting: list[Sample] = []
        self.submitted: list[_Few] = []

    @property
    def full(self) -> bool:
        return self.num_samples == len(self.pixels_NHWC)

    def add(self, sample: Sample) -> None:
        self.waiting.append(sample)
        self.held_bytes += len(sample.encoded)
        self.num_samples += 1
        if self.full or len(self.waiting) == TOGETHER:
            self._decode_waiting()

    def wait(self) -> list[_Done]:
        """Its images, once all are decoded and their encoded bytes free."""
        self._decode_waiting()
        self.held_bytes = 0
        return [one for few in self.submitted for one in few.result()]

    def abandon(self) -> None:
        for few in self.submitted:
            few.cancel()

    def _decode_waiting(self) -> None:
        if self.waiting:
            self.submitted.append(self.submit(self.waiting, self.pixels_NHWC, self.num_samples - len(self.waiting)))
            self.waiting = []

    def table(self, *, end: bool = False, failure: str | None = None, passing: bool = False) -> pa.Table:
        """The batch as a table of one row; waits for its images. The pixels are not copied."""
        done = self.wait()
        samples = [{"shard": self.source["shard"], "index": one.index, "key": one.key, "width": one.decoded.width,
                    "height": one.decoded.height, "sha256": one.sha256, "error": one.decoded.error} for one in done]
        num_bytes = len(done) * IMAGE_BYTES
        offsets = pa.py_buffer(np.array([0, num_bytes], np.int64))
        pixels = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(self.pixels_NHWC)])
        values = {**self.source, "first": self.first, "end": end, "failure": failure,
                  "passing": passing, "num_bytes": sum(one.num_bytes for one in done),
                  "decode_s": sum(one.seconds for one in done), "samples": samples}
        columns = [pixels if field.name == "pixels" else pa.array([values[field.name]], field.type) for field in BATCH]
        return pa.table(columns, schema=BATCH)


def pixels_of(batch: pa.Table) -> np.ndarray:
    """The pixels of a one-row table of `BATCH`, uint8 [N, 299, 299, 3], not copied and not to be written to."""
    pixels = batch["pixels"].chunk(0)
    _, offsets, data = pixels.buffers()
    start, stop = np.frombuffer(offsets, np.int64, 2, pixels.offset * 8)
    flat = np.frombuffer(data, np.uint8, stop - start, start) if stop > start else np.empty(0, np.uint8)
    return flat.reshape(-1, INPUT_SIZE, INPUT_SIZE, 3)
