"""What is counted of labelled rows: images, the rejected by reason, the others by label and by confidence.

In: rows, or counts as a table has them. Out: counts that add up over batches, shards and runs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

BINS = 20  # of the probability of the best label: from 0 to 1, all of one width
COUNTED_COLUMNS = ["error", "label_id", "prob"]  # of the rows

REJECTED = pa.list_(pa.struct([("error", pa.string()), ("num_images", pa.int64())]))
LABELS = pa.list_(pa.struct([("label_id", pa.int16()), ("num_images", pa.int64())]))
CONFIDENCE = pa.list_(pa.int64())  # images in each of the bins


@dataclass
class Counts:
    """`rejected`: images by reason code. `labels`: by label_id, `confidence`: by bin, of those that are not rejected."""

    num_images: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    confidence: list[int] = field(default_factory=lambda: [0] * BINS)

    @staticmethod
    def of(rows: pa.Table) -> Counts:
        """Counts of rows that have `COUNTED_COLUMNS`."""
        prob = rows["prob"].drop_null().to_numpy()
        return Counts(rows.num_rows, Counter(rows["error"].drop_null().to_pylist()),
                      Counter(rows["label_id"].drop_null().to_pylist()), np.histogram(prob.clip(0, 1), BINS, (0, 1))[0].tolist())

    @staticmethod
    def read(row: dict[str, Any]) -> Counts:
        """Counts as `columns` gave them."""
        return Counts(row["num_images"], Counter({entry["error"]: entry["num_images"] for entry in row["rejected"]}),
                      Counter({entry["label_id"]: entry["num_images"] for entry in row["labels"]}), row["confidence"])

    def columns(self) -> dict[str, Any]:
        """As a row of a table has them."""
        return {"num_images": self.num_images, "num_rejected": self.rejected.total(),
                "rejected": [{"error": error, "num_images": number} for error, number in sorted(self.rejected.items())],
                "labels": [{"label_id": label_id, "num_images": number} for label_id, number in sorted(self.labels.items())],
                "confidence": self.confidence}

    def add(self, other: Counts) -> None:
        """Count those of `other` too."""
        self.num_images += other.num_images
        self.rejected.update(other.rejected)
        self.labels.update(other.labels)
        self.confidence = [mine + more for mine, more in zip(self.confidence, other.confidence, strict=True)]
