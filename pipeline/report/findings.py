"""What a report shows beyond the run's row: images over time, examples of the rejected, slow shards, pictures.

In: reports of blocks, rows of `SHARDS`. Out: `Findings`, of bounded size whatever the run's.
"""

from __future__ import annotations

import bisect
import math
from itertools import pairwise
from typing import Any

from pipeline.report.gallery import Gallery

INTERVALS = 120
EXAMPLES = 5  # of each reason
SLOWEST = 10


class Timeline:
    """Images in each interval since the run began; where more than `INTERVALS` would be needed, intervals double.

    `interval_s`: their length in seconds. `images`: of each. `end_s`: of the last image.
    """

    def __init__(self) -> None:
        self.interval_s, self.end_s = 1.0, 0.0
        self.images: list[float] = []

    def add(self, at_s: float, num_images: int) -> None:
        """Count images that were done so many seconds after the run began: over the time since those before."""
        while at_s > INTERVALS * self.interval_s:
            self.interval_s *= 2
            self.images = [sum(self.images[at:at + 2]) for at in range(0, len(self.images), 2)]
        before_s, self.end_s = self.end_s, max(at_s, self.end_s + 1e-6)
        first, last = int(before_s / self.interval_s), math.ceil(self.end_s / self.interval_s) - 1
        self.images += [0] * (last + 1 - len(self.images))
        for at in range(first, last + 1):
            inside_s = min(self.end_s, (at + 1) * self.interval_s) - max(before_s, at * self.interval_s)
            self.images[at] += num_images * inside_s / (self.end_s - before_s)

    def rates(self) -> tuple[list[float], list[float]]:
        """Edges of the intervals in seconds, one more than there are, and images a second between them."""
        images = [*self.images[:-2], sum(self.images[-2:])]  # the last interval is not whole
        edges = [at * self.interval_s for at in range(len(images))] + [self.end_s]
        return edges, [number / (end - start) for number, (start, end) in zip(images, pairwise(edges), strict=True)]


class Findings:
    """`examples`: rejected images by reason code, as dicts of shard, index and key. `slowest`: rows of `SHARDS`."""

    def __init__(self) -> None:
        self.timeline, self.gallery = Timeline(), Gallery()
        self.examples: dict[str, list[dict[str, Any]]] = {}
        self.slowest: list[dict[str, Any]] = []

    def add(self, report: dict[str, Any], at_s: float) -> None:
        """Take a report, so many seconds after the run began."""
        self.timeline.add(at_s, sum(segment["num_images"] for segment in report["segments"]))
        for picture in report["pictures"]:
            self.gallery.add(picture)
        for segment in report["segments"]:
            for example in segment["examples"]:
                known = self.examples.setdefault(example["error"], [])
                if len(known) < EXAMPLES:
                    known.append(example)

    def add_shard(self, row: dict[str, Any]) -> None:
        """Take a shard that ended, if anything of it was reported."""
        if spent_seconds(row):
            bisect.insort(self.slowest, row, key=lambda shard: -spent_seconds(shard))
        del self.slowest[SLOWEST:]


def spent_seconds(shard: dict[str, Any]) -> float:
    """Of decode threads and labellers, for a shard."""
    return float(shard["decode_s"] + shard["label_s"])
