"""Counts of labelled rows: images, rejected images by reason, the other images by label and by confidence.

In: rows, or counts as a table has them. Out: counts that add up over batches, shards and runs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

BINS = 20  # of the probability of the best label, from 0 to 1, all of one width
COUNTED_COLUMNS = ["error", "label_id", "prob"]  # of the rows

REJECTED = pa.list_(pa.struct([("error", pa.string()), ("num_images", pa.int64())]))
LABELS = pa.list_(pa.struct([("label_id", pa.int16()), ("num_images", pa.int64())]))
CONFIDENCE = pa.list_(pa.int64())  # images in each of the bins


@dataclass
class Counts:
    """Counts of images.

    `rejected`: by reason code. `labels`: by label_id, `confidence`: by bin, both of the images that are not rejected.
    """

    num_images: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)

    @staticmethod
    def count_rows(rows: pa.Table) -> Counts:
        """The counts of rows that have `COUNTED_COLUMNS`."""
        prob = rows["prob"].drop_null().to_numpy()
        return Counts(rows.num_rows, Counter(rows["error"].drop_null().to_pylist()),
                      Counter(rows["label_id"].drop_null().to_pylist()),
                      np.histogram(prob.clip(0, 1), BINS, (0, 1))[0].tolist())

    @staticmethod
    def from_columns(row: dict[str, Any]) -> Counts:
        """The counts that `to_columns` put into a row of a table."""
        return Counts(row["num_images"], Counter({entry["error"]: entry["num_images"] for entry in row["rejected"]}),
                      Counter({entry["label_id"]: entry["num_images"] for entry in row["labels"]}), row["confidence"])

    def list_rejected(self) -> list[dict[str, Any]]:
        """The rejected images as a value of `REJECTED`, in order of the reason codes."""
        return [{"error": error, "num_images": number} for error, number in sorted(self.rejected.items())]

    def list_labels(self) -> list[dict[str, Any]]:
        """The labelled images as a value of `LABELS`, in order of the label_ids."""
        return [{"label_id": label_id, "num_images": number} for label_id, number in sorted(self.labels.items())]

    def to_columns(self) -> dict[str, Any]:
        """The columns of a row of a table."""
        return {"num_images": self.num_images, "num_rejected": self.rejected.total(), "rejected": self.list_rejected(),
                "labels": self.list_labels(), "confidence": self.confidence}

    def add(self, other: Counts) -> None:
        """Add the images of `other`."""
        self.num_images += other.num_images
        self.rejected.update(other.rejected)
        self.labels.update(other.labels)
        self.confidence = [number + more for number, more in zip(self.confidence, other.confidence, strict=True)]
