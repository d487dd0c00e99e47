"""Which images a report shows: the most certain, the least certain, and one image of each label.

In: the answers and pixels of a block. Out: pictures; a picture is the answers of a row and a thumbnail.
Each labeller keeps a gallery of its own images, and sends the pixels of those that enter the gallery. The sink makes
the thumbnails. The run keeps one gallery of the pictures of all labellers.
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

SHOWN = 12  # images that are most certain, and as many that are least certain
FREQUENT = 40  # labels that may have a picture
_ANSWERS = ["shard", "index", "key", "sha256", "label_id", "prob", "top5"]

# `at`: the number of the image in its block. `pixels`: uint8 [299, 299, 3].
PIXELS = pa.list_(pa.struct([("at", pa.int32()), ("pixels", pa.binary())]))
# `jpeg`: the thumbnail, 150 x 150, 4 to 8 KB.
PICTURES = pa.list_(pa.struct([*(ROWS.field(name) for name in _ANSWERS), ("jpeg", pa.binary())]))


class Gallery:
    """The pictures that a report may show. A picture is a dict with at least `label_id`, `prob` and `sha256`.

    `most`, `least`: the `SHOWN` pictures of the highest and of the lowest `prob`, in that order; no two have the same
    bytes. `of_label`: the picture of the highest `prob` of each label.
    """

    def __init__(self) -> None:
        self.most: list[dict[str, Any]] = []
        self.least: list[dict[str, Any]] = []
        self.of_label: dict[int, dict[str, Any]] = {}

    def add(self, picture: dict[str, Any]) -> bool:
        """Keep a picture if a report may show it; whether it is kept."""
        best = self.of_label.get(picture["label_id"])
        is_kept = best is None or picture["prob"] > best["prob"]
        if is_kept:
            self.of_label[picture["label_id"]] = picture
        is_kept |= _insert(self.most, picture, -1)
        return _insert(self.least, picture, 1) or is_kept


class Picker:
    """Picks the images whose pixels a labeller sends: those that enter its own gallery.

    Asking the gallery costs 10 µs an image, so arrays choose the candidates first. Only the `FREQUENT` most frequent
    labels so far have candidates of their own: otherwise all images of a first block would be sent.
    """

    def __init__(self, num_classes: int) -> None:
        self.gallery = Gallery()
        self.num_images = np.zeros(num_classes, np.int64)  # by label_id
        self.best_prob = np.full(num_classes, -np.inf, np.float32)

    def pick(self, samples: pa.Table, label_id: np.ndarray, prob: np.ndarray, pixels_NHWC: np.ndarray) -> pa.Array:
        """Those of N images that enter the gallery, as an array of one row of `PIXELS`.

        Args:
            samples: table of `SAMPLES`, N rows.
            label_id, prob: the best label of each image and its probability, int [N] and float32 [N].
            pixels_NHWC: uint8 [N, 299, 299, 3].
        """
        labelled = np.flatnonzero(samples["error"].is_null().to_numpy() & np.isfinite(prob))
        self.num_images += np.bincount(label_id[labelled], minlength=len(self.num_images))
        falling = labelled[np.argsort(-prob[labelled], kind="stable")]
        ends = [falling[:2 * SHOWN], falling[::-1][:2 * SHOWN]]
        candidates = dict.fromkeys(np.concatenate([*ends, self._pick_best(label_id, prob, falling)]).tolist())
        sha256 = samples["sha256"].take(pa.array(list(candidates), pa.int64())).to_pylist()
        picked = [at for at, digest in zip(candidates, sha256, strict=True) if self.gallery.add(
            {"label_id": int(label_id[at]), "prob": float(prob[at]), "sha256": digest})]
        pixels = pixels_NHWC[np.array(picked, np.int64)]
        offsets = np.arange(len(picked) + 1, dtype=np.int32) * pixels[0:1].nbytes
        images = pa.Array.from_buffers(pa.binary(), len(picked), [None, pa.py_buffer(offsets), pa.py_buffer(pixels)])
        fields = list(PIXELS.value_type)
        struct = pa.StructArray.from_arrays([pa.array(picked, pa.int32()), images], fields=fields)
        return pa.ListArray.from_arrays(pa.array([0, len(picked)], pa.int32()), struct, type=PIXELS)

    def _pick_best(self, label_id: np.ndarray, prob: np.ndarray, falling: np.ndarray) -> np.ndarray:
        """The most certain image of each frequent label, where it is more certain than all before.

        Args:
            falling: numbers of images, the highest `prob` first.
        """
        labels, first = np.unique(label_id[falling], return_index=True)
        frequent = np.argpartition(-self.num_images, min(FREQUENT, len(self.num_images) - 1))[:FREQUENT]
        is_better = np.isin(labels, frequent) & (prob[falling[first]] > self.best_prob[labels])
        best = np.asarray(falling[first[is_better]])
        self.best_prob[labels[is_better]] = prob[best]
        return best


def make_pictures(rows: pa.Table, picked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The images of a block that a `Picker` picked, as dicts of `PICTURES`, without those that got no label.

    Args:
        rows: the rows of the block, a table of `ROWS`.
        picked: the items of `PIXELS`.
    """
    at = pa.array([item["at"] for item in picked], pa.int64())
    answers = rows.select(_ANSWERS).take(at).to_pylist()
    return [row | {"jpeg": draw_thumbnail(item["pixels"])} for row, item in zip(answers, picked, strict=True)
            if row["label_id"] is not None]


def _insert(pictures: list[dict[str, Any]], picture: dict[str, Any], sign: int) -> bool:
    """Insert a picture into a list that is sorted by `sign * prob`; whether it is among the first `SHOWN`."""
    def order(picture: dict[str, Any]) -> float:
        return sign * float(picture["prob"])

    if len(pictures) == SHOWN and order(picture) >= order(pictures[-1]):
        return False
    if any(other["sha256"] == picture["sha256"] for other in pictures):
        return False
    bisect.insort(pictures, picture, key=order)
    del pictures[SHOWN:]
    return True


def draw_thumbnail(pixels: bytes) -> bytes:
    """A JPEG of half the size of square pixels, uint8 [S, S, 3]."""
    side = isqrt(len(pixels) // 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).reduce(2).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
