"""Which images a report shows: those the network is most and least sure of, and one of each label.

In: answers as they are made, and pixels. Out: pictures, each a row's answers and a thumbnail of what the network saw.
A labeller keeps a gallery to know which of its images deserve a thumbnail, which soon are few, and sends their pixels along; the
sink makes the thumbnails; the run keeps another gallery of what all labellers send.
"""

from __future__ import annotations

import bisect
import io
from math import isqrt
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.tables.labels import ROWS

SHOWN = 12  # most certain, and as many least certain
FREQUENT = 40  # labels of which a picture may be shown
_ANSWERS = ["shard", "index", "key", "sha256", "label_id", "prob", "top5"]

PIXELS = pa.list_(pa.struct([("at", pa.int32()), ("pixels", pa.binary())]))  # which image of a block; uint8 [299, 299, 3]
PICTURES = pa.list_(pa.struct([*(ROWS.field(name) for name in _ANSWERS), ("jpeg", pa.binary())]))  # 150 x 150, 4 to 8 KB


class Gallery:
    """The `SHOWN` pictures of highest and of lowest `prob`, best first, no two of the same bytes; and of each label the
    picture of highest `prob`. A picture is a dict with at least `label_id`, `prob` and `sha256`."""

    def __init__(self) -> None:
        self.most: list[dict[str, Any]] = []
        self.least: list[dict[str, Any]] = []
        self.of_label: dict[int, dict[str, Any]] = {}

    def add(self, picture: dict[str, Any]) -> bool:
        """Take a picture, if it is one to show; whether it was taken."""
        known = self.of_label.get(picture["label_id"])
        taken = known is None or picture["prob"] > known["prob"]
        if taken:
            self.of_label[picture["label_id"]] = picture
        taken |= _insert(self.most, picture, -1)
        return _insert(self.least, picture, 1) or taken


class Picker:
    """Which of its images a labeller sends along, with their pixels: those that its own gallery takes.

    Numbers decide which images the gallery is asked about, since asking costs 10 µs an image. Of labels only the `FREQUENT`
    most frequent ones so far count: a first block of a thousand images would else be sent as a whole.
    """

    def __init__(self, num_classes: int) -> None:
        self.gallery = Gallery()
        self.seen = np.zeros(num_classes, np.int64)
        self.best = np.full(num_classes, -np.inf, np.float32)

    def pick(self, samples: pa.Table, label_id: np.ndarray, prob: np.ndarray, pixels_NHWC: np.ndarray) -> pa.Array:
        """Of N images those that the gallery takes, as an array of one row of `PIXELS`.

        Args:
            samples: table of `SAMPLES`, N rows.
            label_id, prob: the best of each image, int [N] and float32 [N].
            pixels_NHWC: uint8 [N, 299, 299, 3].
        """
        good = np.flatnonzero(samples["error"].is_null().to_numpy() & np.isfinite(prob))
        self.seen += np.bincount(label_id[good], minlength=len(self.seen))
        falling = good[np.argsort(-prob[good], kind="stable")]
        asked = dict.fromkeys(np.concatenate([falling[:2 * SHOWN], falling[::-1][:2 * SHOWN], self._best(label_id, prob, falling)]).tolist())
        sha256 = samples["sha256"].take(pa.array(list(asked), pa.int64())).to_pylist()
        taken = [at for at, of_bytes in zip(asked, sha256, strict=True) if self.gallery.add(
            {"label_id": int(label_id[at]), "prob": float(prob[at]), "sha256": of_bytes})]
        pixels = pixels_NHWC[np.array(taken, np.int64)]
        offsets = np.arange(len(taken) + 1, dtype=np.int32) * pixels[0:1].nbytes
        images = pa.Array.from_buffers(pa.binary(), len(taken), [None, pa.py_buffer(offsets), pa.py_buffer(pixels)])
        struct = pa.StructArray.from_arrays([pa.array(taken, pa.int32()), images], fields=list(PIXELS.value_type))
        return pa.ListArray.from_arrays(pa.array([0, len(taken)], pa.int32()), struct, type=PIXELS)

    def _best(self, label_id: np.ndarray, prob: np.ndarray, falling: np.ndarray) -> np.ndarray:
        """Of the frequent labels the most certain image each, where it is better than those before."""
        labels, first = np.unique(label_id[falling], return_index=True)
        frequent = np.isin(labels, np.argpartition(-self.seen, min(FREQUENT, len(self.seen) - 1))[:FREQUENT])
        better = frequent & (prob[falling[first]] > self.best[labels])
        self.best[labels[better]] = prob[falling[first[better]]]
        return np.asarray(falling[first[better]])


def make_pictures(rows: pa.Table, picked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a `Picker` picked of these rows, as dicts of `PICTURES`; an image without a label is left out."""
    shown = rows.select(_ANSWERS).take(pa.array([one["at"] for one in picked], pa.int64())).to_pylist()
    return [row | {"jpeg": _thumbnail(one["pixels"])} for row, one in zip(shown, picked, strict=True) if row["label_id"] is not None]


def _insert(pictures: list[dict[str, Any]], picture: dict[str, Any], sign: int) -> bool:
    """Keep `pictures` sorted by `sign * prob`."""
    def order(one: dict[str, Any]) -> float:
        return sign * float(one["prob"])

    if len(pictures) == SHOWN and order(picture) >= order(pictures[-1]):
        return False
    if any(one["sha256"] == picture["sha256"] for one in pictures):
        return False
    bisect.insort(pictures, picture, key=order)
    del pictures[SHOWN:]
    return True


def _thumbnail(pixels: bytes) -> bytes:
    side = isqrt(len(pixels) // 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).reduce(2).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
