"""Labelled shards -> crops to train on: the stage between the store and the training workers.

In: rows of `LABELLED_SHARDS`. Out: rows of `image` (uint8 [S, S, 3]) and `target` (int64), one for each image that has
a truth and can be decoded; and a `ShardReport` for each shard.
Training crops are torchvision's: 8 to 100 % of the area, flipped, with jittered colours. Validation crops are those of
labelling: the shortest side resized to size / 0.875, then the centre.
"""

from __future__ import annotations

import hashlib
import random
from array import array
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
from pipeline.formats.samples import Sample, ShardUnreadable
from pipeline.images.decode import decode_whole
from pipeline.images.room import Rejected
from pipeline.inputs.read import Inputs
from pipeline.model.spec import CROP
from pipeline.store.retry import Replaced, describe_error
from pipeline.truth.holdout import is_held_out

LABELLED_SHARDS = pa.schema([
    ("shard", pa.string()),              # path relative to the input
    ("uri", pa.string()),
    ("size", pa.int64()),                # bytes
    ("keys", pa.list_(pa.string())),     # of the images with a truth
    ("targets", pa.list_(pa.int32())),   # the label_id of each key
    ("group", pa.struct(list(GROUPS))),  # of loose images; else null
])
BLOCK_IMAGES = 64
COLOUR_JITTER = 0.4  # timm's --color-jitter


@dataclass
class ShardReport:
    """What one side, `train` or `valid`, found in a shard.

    Attributes:
        rejected: the number of images by reason code and target.
        digests, targets: of each decoded image the first 8 bytes of its SHA-256, as a number; and its target.
        failed: the reason why the shard was not read to its end; None if it was.
    """

    shard: str
    side: str
    rejected: Counter[tuple[str, int]] = field(default_factory=Counter)
    digests: array[int] = field(default_factory=lambda: array("Q"))
    targets: array[int] = field(default_factory=lambda: array("i"))
    failed: str | None = None


class Crop(NamedTuple):
    """The outcome for one sample. An image of the other side has neither a crop nor an error.

    Attributes:
        image_HWC: uint8 [S, S, 3]; None if there is no crop.
        digest: the SHA-256 of the encoded image; empty if there is no crop.
        error: a reason code; None if there is a crop.
    """

    image_HWC: np.ndarray | None
    digest: bytes
    error: str | None


@dataclass(frozen=True)
class Crops:
    """The stage: a callable that takes a table of `LABELLED_SHARDS` and yields batches of crops.

    A shard that cannot be read to its end gives the crops of its readable part.

    Attributes:
        side: `train` or `valid`: the images on this side of the holdout.
        holdout: the share of the images on the side `valid`; 0: all images are on both sides.
        augment: make random crops.
        messages: a queue; gets a `ShardReport` each time a shard is read.
    """

    inputs: Inputs
    image_size: int
    side: str
    holdout: float
    augment: bool
    num_threads: int
    messages: Any

    def __call__(self, shards: pa.Table) -> Iterator[dict[str, np.ndarray]]:
        torch.set_num_threads(1)  # the threads of the pool work in parallel already
        transform = training_crop(self.image_size) if self.augment else validation_crop(self.image_size)
        with ThreadPoolExecutor(self.num_threads, "crop") as pool:
            for row in shards.to_pylist():
                target_of = dict(zip(row["keys"], row["targets"], strict=True))
                if row["group"] and "members" in row["group"]:  # loose images: in order of time, so often of classes
                    random.shuffle(row["group"]["members"])
                report = ShardReport(row["shard"], self.side)
                try:
                    with self.inputs.open(row["uri"], row["group"]) as (samples, _):
                        with_truth = (sample for sample in samples if sample.key in target_of)
                        yield from self._make_blocks(with_truth, target_of, pool, transform, report)
                except (ShardUnreadable, Replaced) as error:
                    report.failed = describe_error(error)
                self.messages.put(report)

    def _make_blocks(self, samples: Iterator[Sample], target_of: dict[str, int], pool: ThreadPoolExecutor,
                     transform: v2.Transform, report: ShardReport) -> Iterator[dict[str, np.ndarray]]:
        images: list[np.ndarray] = []
        targets: list[int] = []
        crops = _map_ahead(pool, samples, lambda sample: self._crop(sample, transform), 2 * BLOCK_IMAGES)
        for sample, crop in crops:
            target = target_of[sample.key]
            if crop.error:
                report.rejected[crop.error, target] += 1
            if crop.image_HWC is not None:
                report.digests.append(int.from_bytes(crop.digest[:8], "big"))
                report.targets.append(target)
                images.append(crop.image_HWC)
                targets.append(target)
            if len(images) == BLOCK_IMAGES:
                yield {"image": np.stack(images), "target": np.array(targets, np.int64)}
                images, targets = [], []
        if images:
            yield {"image": np.stack(images), "target": np.array(targets, np.int64)}

    def _crop(self, sample: Sample, transform: v2.Transform) -> Crop:
        """The crop of a sample, if it is on this side. A sample without bytes is on the side `train`."""
        if sample.error:
            return Crop(None, b"", sample.error if self.side == "train" or not self.holdout else None)
        sha256 = hashlib.sha256(sample.encoded)
        if self.holdout > 0 and is_held_out(sha256.hexdigest(), self.holdout) != (self.side == "valid"):
            return Crop(None, b"", None)
        try:
            pixels_HWC = decode_whole(sample.encoded, max_pixels=Config.max_image_pixels,
                                      max_bytes=self.inputs.max_image_bytes)
        except Rejected as rejected:
            return Crop(None, b"", rejected.reason)
        image_CHW: Tensor = transform(torch.from_numpy(pixels_HWC).permute(2, 0, 1))
        return Crop(image_CHW.permute(1, 2, 0).numpy(), sha256.digest(), None)


def training_crop(size: int) -> v2.Transform:
    """A random crop: uint8 [3, H, W] -> uint8 [3, size, size]."""
    bicubic = v2.InterpolationMode.BICUBIC
    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.08, 1), interpolation=bicubic, antialias=True),
                       v2.RandomHorizontalFlip(), v2.ColorJitter(COLOUR_JITTER, COLOUR_JITTER, COLOUR_JITTER)])


def validation_crop(size: int) -> v2.Transform:
    """The central crop: uint8 [3, H, W] -> uint8 [3, size, size]. With size 299 it is the crop of labelling."""
    return v2.Compose([v2.Resize(int(size / CROP), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
                       v2.CenterCrop(size)])


def _map_ahead(pool: ThreadPoolExecutor, samples: Iterator[Sample], function: Callable[[Sample], Crop],
               max_ahead: int) -> Iterator[tuple[Sample, Crop]]:
    """Each sample with the function's result, in order. At most `max_ahead` samples are in work at once."""
    waiting: deque[tuple[Sample, Future[Crop]]] = deque()
    for sample in samples:
        waiting.append((sample, pool.submit(function, sample)))
        if len(waiting) == max_ahead:
            first, result = waiting.popleft()
            yield first, result.result()
    while waiting:
        first, result = waiting.popleft()
        yield first, result.result()
