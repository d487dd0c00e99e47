"""Which images a report shows: those the network is most and least sure of, and one of each label.

In: rows as they are labelled, and their pixels. Out: pictures, each a row's answers and a thumbnail of what the network saw.
A labeller keeps a gallery to know which of its images deserve a thumbnail, which soon are few; the run keeps another of
what all labellers send.
"""

from __future__ import annotations

import bisect
import io
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.table import ROWS

SHOWN = 12  # most certain, and as many least certain
_ANSWERS = ["shard", "index", "key", "sha256", "label_id", "prob", "top5"]

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


def pictures(rows: pa.Table, pixels_NHWC: np.ndarray, gallery: Gallery) -> pa.Array:
    """Those of N rows that a gallery takes, as an array of one row of `PICTURES`.

    Args:
        rows: table of `ROWS`.
        pixels_NHWC: uint8 [N, 299, 299, 3].
    """
    columns = [rows[name].to_pylist() for name in ("label_id", "prob", "sha256")]
    taken = [at for at, (label_id, prob, sha256) in enumerate(zip(*columns, strict=True)) if label_id is not None and
             gallery.add({"label_id": label_id, "prob": prob, "sha256": sha256})]
    shown = rows.select(_ANSWERS).take(pa.array(taken, pa.int64())).to_pylist()
    return pa.array([[row | {"jpeg": _thumbnail(pixels_NHWC[at])} for row, at in zip(shown, taken, strict=True)]], PICTURES)


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


def _thumbnail(pixels_HWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).reduce(2).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
