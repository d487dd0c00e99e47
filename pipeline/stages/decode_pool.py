"""The threads that decode: each takes encoded images and writes the pixels of each image into its slot.

In: samples, and the memory of a block. Out: futures of `DecodedSample`s; the pixels are in the memory.
Not here: which images share a block (`pixel_block`, `fill_blocks`).
"""

from __future__ import annotations

import hashlib
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.formats.samples import Sample
from pipeline.images.decode import Decoded, decode
from pipeline.model.spec import INPUT_SIZE

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class DecodedSample:
    """A sample without its bytes. `sha256`: of the bytes, None if nobody read them. `seconds`: spent in decoding.
    `kept`: as the sample has it.
    """

    key: str
    num_bytes: int
    sha256: str | None
    decoded: Decoded
    seconds: float
    kept: tuple[str | None, ...] = ()


class DecodePool:
    """Threads that decode samples. Several callers may share one pool.

    Args:
        num_threads: of the pool.
        max_image_pixels: an image of more pixels is rejected as `too_large`.
        max_image_bytes: an image of more encoded bytes is rejected, too.
        reduce: decode a large JPEG at a reduced scale.
    """

    def __init__(self, num_threads: int, max_image_pixels: int, max_image_bytes: int, reduce: bool) -> None:
        self.num_threads = num_threads
        self.max_image_pixels = max_image_pixels
        self.max_image_bytes = max_image_bytes
        self.reduce = reduce
        self.threads = ThreadPoolExecutor(num_threads, "decode")

    def submit(self, samples: list[Sample], pixels_NHWC: Pixels, start: int) -> Future[list[DecodedSample]]:
        """Decode samples into the slots from `start` on.

        The task holds the array, so nobody lends its memory again meanwhile.
        """
        return self.threads.submit(
            lambda: [self.decode_sample(sample, pixels_NHWC[slot]) for slot, sample in enumerate(samples, start)])

    def decode_sample(self, sample: Sample, slot_HWC: Pixels) -> DecodedSample:
        """Write the pixels of a sample into its slot, uint8 [299, 299, 3]; those of a rejected image are 0."""
        start_s = time.perf_counter()
        if sample.error is None:
            decoded = decode(sample.encoded, slot_HWC, max_pixels=self.max_image_pixels,
                             max_bytes=self.max_image_bytes, reduce=self.reduce)
        else:
            slot_HWC[...] = 0
            decoded = Decoded(None, None, sample.error)
        sha256 = None if sample.error else hashlib.sha256(sample.encoded).hexdigest()
        return DecodedSample(sample.key, len(sample.encoded), sha256, decoded, time.perf_counter() - start_s,
                             sample.kept)


class BlockMemory:
    """Lends memory for blocks of `block_size` images, and lends the same memory again once nobody holds it.

    Fresh memory costs 4 % of decoding, since the kernel clears each page of it.
    """

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.free: list[Pixels] = []

    def lend(self) -> Pixels:
        """Memory of a block, uint8 [block_size, 299, 299, 3]. It is free again once nobody holds the returned array."""
        try:
            memory = self.free.pop()
        except IndexError:
            memory = np.empty((self.block_size, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        pixels_NHWC = memory.view()
        weakref.finalize(pixels_NHWC, self.free.append, memory)
        return pixels_NHWC
