"""Labelled shards -> crops to train on: the stage between the store and the training workers.

In: rows of `SHARDS`. Out: rows of `image` (uint8 [S, S, 3]) and `target` (int64), for every image that has a truth and can
be decoded; what cannot is told. Training crops are torchvision's: 8 to 100 % of the area, flipped, colours
jittered. Validation is as in labelling: the shortest side to size / 0.875, the centre.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchvision.transforms import v2

from pipeline.config import Config
from pipeline.decode import decode_whole
from pipeline.image_files import GROUPS
from pipeline.inception_v4 import CROP
from pipeline.inputs import Inputs
from pipeline.shards import Sample
from pipeline.truth import held_out

SHARDS = pa.schema([
    ("shard", pa.string()),
    ("uri", pa.string()),
    ("keys", pa.list_(pa.string())),     # of the images that have a truth
    ("targets", pa.list_(pa.int32())),   # and their label_ids
    ("group", pa.struct(list(GROUPS))),  # of loose images
])
BLOCK_IMAGES = 64
COLOUR = 0.4  # timm's --color-jitter


@dataclass(frozen=True)
class Crops:
    """The stage: a callable, a table of `SHARDS` in, batches of crops out.

    `side`: which images, of those that `held_out` parts by `holdout`: `train` or `valid`. `lines`: takes a line for each
    image that is left out.
    """

    inputs: Inputs
    image_size: int
    side: str
    holdout: float
    augment: bool
    num_threads: int
    lines: Any

    def __call__(self, shards: pa.Table) -> Iterator[dict[str, np.ndarray]]:
        torch.set_num_threads(1)  # each thread of the pool resizes by itself
        transform = training(self.image_size) if self.augment else validation(self.image_size)
        with ThreadPoolExecutor(self.num_threads, "crop") as pool:
            for row in shards.to_pylist():
                target_of = dict(zip(row["keys"], row["targets"], strict=True))
                if row["group"]:  # loose images come in order of time, which is often that of their classes
                    random.shuffle(row["group"]["members"])
                with self.inputs.open(row["uri"], row["group"]) as (samples, _):
                    chosen = (sample for sample in samples if sample.key in target_of)
                    yield from self._blocks(row["shard"], chosen, target_of, pool, transform)

    def _blocks(self, shard: str, samples: Iterator[Sample], target_of: dict[str, int], pool: ThreadPoolExecutor,
                transform: v2.Transform) -> Iterator[dict[str, np.ndarray]]:
        images: list[np.ndarray] = []
        targets: list[int] = []
        for sample, crop in _ahead(pool, samples, lambda sample: self._crop(shard, sample, transform), 2 * BLOCK_IMAGES):
            if crop is not None:
                images.append(crop)
                targets.append(target_of[sample.key])
            if len(images) == BLOCK_IMAGES:
                yield {"image": np.stack(images), "target": np.array(targets, np.int64)}
                images, targets = [], []
        if images:
            yield {"image": np.stack(images), "target": np.array(targets, np.int64)}

    def _crop(self, shard: str, sample: Sample, transform: v2.Transform) -> np.ndarray | None:
        if (self.holdout > 0 and not sample.error
                and held_out(hashlib.sha256(sample.encoded).hexdigest(), self.holdout) != (self.side == "valid")):
            return None
        pixels_HWC = None if sample.error else decode_whole(sample.encoded, max_pixels=Config.max_image_pixels,
                                                            max_bytes=self.inputs.max_image_bytes)
        if pixels_HWC is None:
            self.lines.put(f"left out: {shard}: {sample.key} cannot be decoded")
            return None
        image_CHW: Tensor = transform(torch.from_numpy(pixels_HWC).permute(2, 0, 1))
        return image_CHW.permute(1, 2, 0).numpy()


def training(size: int) -> v2.Transform:
    """uint8 [3, H, W] -> uint8 [3, size, size], at random."""
    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.08, 1), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
                       v2.RandomHorizontalFlip(), v2.ColorJitter(COLOUR, COLOUR, COLOUR)])


def validation(size: int) -> v2.Transform:
    """uint8 [3, H, W] -> uint8 [3, size, size], as labelling does it at 299."""
    return v2.Compose([v2.Resize(int(size / CROP), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
                       v2.CenterCrop(size)])


def _ahead(pool: ThreadPoolExecutor, samples: Iterator[Sample], work: Callable[[Sample], np.ndarray | None],
           most: int) -> Iterator[tuple[Sample, np.ndarray | None]]:
    """Each sample with what `work` makes of it, in order; so many are under way."""
    coming: deque[tuple[Sample, Future[np.ndarray | None]]] = deque()
    for sample in samples:
        coming.append((sample, pool.submit(work, sample)))
        if len(coming) == most:
            first, made = coming.popleft()
            yield first, made.result()
    while coming:
        first, made = coming.popleft()
        yield first, made.result()
