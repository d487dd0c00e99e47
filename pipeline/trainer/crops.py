"""Labelled shards -> crops to train on: the stage between the store and the training workers.

In: rows of `SHARDS`. Out: rows of `image` (uint8 [S, S, 3]) and `target` (int64), for every image that has a truth and can
be decoded; and of each shard a `Seen`, what cannot be. Training crops are torchvision's: 8 to 100 % of the area, flipped, colours
jittered. Validation is as in labelling: the shortest side to size / 0.875, the centre.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchvision.transforms import v2

from pipeline.config import Config
from pipeline.formats.loose import GROUPS
from pipeline.formats.tar import Sample, ShardUnreadable
from pipeline.images.decode import decode_whole
from pipeline.images.room import Rejected
from pipeline.inputs.find import Inputs
from pipeline.model.spec import CROP
from pipeline.store.retry import Replaced, describe_error
from pipeline.truth.holdout import is_held_out

LABELLED_SHARDS = pa.schema([
    ("shard", pa.string()),
    ("uri", pa.string()),
    ("keys", pa.list_(pa.string())),     # of the images that have a truth
    ("targets", pa.list_(pa.int32())),   # and their label_ids
    ("group", pa.struct(list(GROUPS))),  # of loose images
])
BLOCK_IMAGES = 64
COLOUR = 0.4  # timm's --color-jitter


@dataclass
class Seen:
    """What one side saw of a shard. `rejected`: images by reason and target. `target_of`: of the images that can be decoded, by the first
    8 bytes of their SHA-256. `failed`: why the shard was not read to its end."""

    shard: str
    side: str
    rejected: Counter[tuple[str, int]] = field(default_factory=Counter)
    target_of: dict[bytes, set[int]] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class Crops:
    """The stage: a callable, a table of `SHARDS` in, batches of crops out. A shard that cannot be read gives what it has.

    `side`: which images, of those that `held_out` parts by `holdout`: `train` or `valid`. `lines`: takes a `Seen` of each shard, each time.
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
        transform = training_crop(self.image_size) if self.augment else validation_crop(self.image_size)
        with ThreadPoolExecutor(self.num_threads, "crop") as pool:
            for row in shards.to_pylist():
                target_of = dict(zip(row["keys"], row["targets"], strict=True))
                if row["group"]:  # loose images come in order of time, which is often that of their classes
                    random.shuffle(row["group"]["members"])
                seen = Seen(row["shard"], self.side)
                try:
                    with self.inputs.open(row["uri"], row["group"]) as (samples, _):
                        chosen = (sample for sample in samples if sample.key in target_of)
                        yield from self._blocks(chosen, target_of, pool, transform, seen)
                except (ShardUnreadable, Replaced) as error:
                    seen.failed = describe_error(error)
                self.lines.put(seen)

    def _blocks(self, samples: Iterator[Sample], target_of: dict[str, int], pool: ThreadPoolExecutor, transform: v2.Transform,
                seen: Seen) -> Iterator[dict[str, np.ndarray]]:
        images: list[np.ndarray] = []
        targets: list[int] = []
        for sample, cropped in _ahead(pool, samples, lambda sample: self._crop(sample, transform), 2 * BLOCK_IMAGES):
            target = target_of[sample.key]
            if cropped.error:
                seen.rejected[cropped.error, target] += 1
            if cropped.image_HWC is not None:
                seen.target_of.setdefault(cropped.digest[:8], set()).add(target)
                images.append(cropped.image_HWC)
                targets.append(target)
            if len(images) == BLOCK_IMAGES:
                yield {"image": np.stack(images), "target": np.array(targets, np.int64)}
                images, targets = [], []
        if images:
            yield {"image": np.stack(images), "target": np.array(targets, np.int64)}

    def _crop(self, sample: Sample, transform: v2.Transform) -> Cropped:
        """The crop of a sample of this side. One that has no bytes is on the side `train`."""
        if sample.error:
            return Cropped(None, b"", sample.error if self.side == "train" or not self.holdout else None)
        sha256 = hashlib.sha256(sample.encoded)
        if self.holdout > 0 and is_held_out(sha256.hexdigest(), self.holdout) != (self.side == "valid"):
            return Cropped(None, b"", None)
        try:
            pixels_HWC = decode_whole(sample.encoded, max_pixels=Config.max_image_pixels, max_bytes=self.inputs.max_image_bytes)
        except Rejected as rejected:
            return Cropped(None, b"", rejected.reason)
        image_CHW: Tensor = transform(torch.from_numpy(pixels_HWC).permute(2, 0, 1))
        return Cropped(image_CHW.permute(1, 2, 0).numpy(), sha256.digest(), None)


class Cropped(NamedTuple):
    """A crop, uint8 [S, S, 3], and the SHA-256 of its image; or why there is none; neither of an image of the other side."""

    image_HWC: np.ndarray | None
    digest: bytes
    error: str | None


def training_crop(size: int) -> v2.Transform:
    """uint8 [3, H, W] -> uint8 [3, size, size], at random."""
    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.08, 1), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
                       v2.RandomHorizontalFlip(), v2.ColorJitter(COLOUR, COLOUR, COLOUR)])


def validation_crop(size: int) -> v2.Transform:
    """uint8 [3, H, W] -> uint8 [3, size, size], as labelling does it at 299."""
    return v2.Compose([v2.Resize(int(size / CROP), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
                       v2.CenterCrop(size)])


def _ahead(pool: ThreadPoolExecutor, samples: Iterator[Sample], work: Callable[[Sample], Cropped],
           most: int) -> Iterator[tuple[Sample, Cropped]]:
    """Each sample with what `work` makes of it, in order; so many are under way."""
    coming: deque[tuple[Sample, Future[Cropped]]] = deque()
    for sample in samples:
        coming.append((sample, pool.submit(work, sample)))
        if len(coming) == most:
            first, made = coming.popleft()
            yield first, made.result()
    while coming:
        first, made = coming.popleft()
        yield first, made.result()
