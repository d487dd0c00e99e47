"""The first stage: shards -> blocks of pixels.

In: a table with one shard a row (`number`, `shard`, `uri`; `group` for loose images). Out: tables of `BLOCK`,
streamed while the shards are still being read. The calling thread reads; a pool of threads decodes each image
straight into its slot.

A shard without samples is a segment of no image. A shard that cannot be read to its end closes with a segment that has
`failure` set; its rows must not be published as if they were all.
Calls go one way: `Reader` -> `BlockFiller` (which samples share a block) -> `DecodePool` and `PixelBlock`.
Not here: normalising, the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import torch

from pipeline.errors import CaughtError
from pipeline.formats.left_out import LeftOut
from pipeline.inputs.read import Inputs
from pipeline.memory import keep_freed_memory
from pipeline.stages.batch import BLOCK
from pipeline.stages.decode_pool import BlockMemory, DecodePool
from pipeline.stages.failures import report_failures
from pipeline.stages.fill_blocks import BlockFiller
from pipeline.stages.node import this_node
from pipeline.stages.pixel_block import PendingShard
from pipeline.tables.label_files import ShardVersion


class Reader:
    """The stage: a callable, a table of shards in, tables of `BLOCK` out. Two calls at once share the pool.

    Args:
        batch_size: images that the device takes at once.
        block_size: images of a block, at most.
        num_threads: of the decode pool.
        max_image_pixels: an image of more pixels is rejected as `too_large`.
        inputs: how samples are read, and how large they may be.
        reduce: decode large JPEGs at a reduced scale.
    """

    def __init__(self, batch_size: int, block_size: int, num_threads: int, max_image_pixels: int, inputs: Inputs,
                 reduce: bool = True) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)  # each thread of the pool resizes by itself
        self.batch_size = batch_size
        self.inputs = inputs
        self.pool = DecodePool(num_threads, max_image_pixels, inputs.max_image_bytes, reduce)
        self.memory = BlockMemory(block_size)
        self.node = this_node()

    @report_failures(BLOCK)
    def __call__(self, shards: pa.Table) -> Iterator[pa.Table]:
        filler = BlockFiller(self.pool, self.memory, self.batch_size, self.node)
        for row in shards.to_pylist():
            shard = PendingShard(row["number"], ShardVersion(row["shard"], row["uri"], 0, ""))
            left_out = LeftOut()
            opening = self.inputs.open(row["uri"], row.get("group"), left_out)
            with CaughtError() as caught, opening as (samples, file):  # the run goes on without a shard that breaks
                shard.version = replace(shard.version, size=file.size, etag=file.etag)
                for sample in samples:
                    filler.add(shard, sample)
                    yield from filler.take_decoded()
            filler.end_shard(shard, caught.error, left_out)
            yield from filler.take_decoded()
        yield from filler.take_rest()
