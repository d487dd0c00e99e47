"""What the report of a run shows beside the run's row: images over time, rejected examples, slow shards, pictures.

In: what reports of blocks bring, and rows of the table `shards`. Out: `Findings`. Their size does not grow with the
run.
"""

from __future__ import annotations

import bisect
import math
from itertools import pairwise
from typing import Any

from pipeline.report.gallery import Gallery
from pipeline.tables.ledger_rows import ShardRow

INTERVALS = 120
EXAMPLES = 5  # images of each reason
SLOWEST = 10  # shards


class Timeline:
    """Images in each interval since the run began. Where `INTERVALS` do not suffice, they double in length.

    `interval_s`: the length of an interval in seconds. `images`: the images of each interval. `end_s`: when the last
    image was done, in seconds since the run began.
    """

    def __init__(self) -> None:
        self.interval_s, self.end_s = 1.0, 0.0
        self.images: list[float] = []

    def add(self, at_s: float, num_images: int) -> None:
        """Count images that were done `at_s` seconds after the run began, spread over the time since the last call."""
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
        """The edges of the N intervals in seconds (N + 1 numbers), and the images a second in each interval (N)."""
        images = [*self.images[:-2], sum(self.images[-2:])]  # the last interval is shorter than the others
        edges = [at * self.interval_s for at in range(len(images))] + [self.end_s]
        return edges, [number / (end - start) for number, (start, end) in zip(images, pairwise(edges), strict=True)]


class Findings:
    """What the reports of a run say.

    `examples`: rejected images by reason code, each a dict of shard, index and key. `slowest`: rows of the table
    `shards`.
    """

    def __init__(self) -> None:
        self.timeline, self.gallery = Timeline(), Gallery()
        self.examples: dict[str, list[dict[str, Any]]] = {}
        self.slowest: list[ShardRow] = []

    def add(self, at_s: float, num_images: int, pictures: list[dict[str, Any]], examples: list[dict[str, Any]]) -> None:
        """Take what a report brings, so many seconds after the run began.

        Args:
            pictures: dicts of `gallery.PICTURES`.
            examples: rejected images, as dicts of error, shard, index and key.
        """
        self.timeline.add(at_s, num_images)
        for picture in pictures:
            self.gallery.add(picture)
        for example in examples:
            known = self.examples.setdefault(example["error"], [])
            if len(known) < EXAMPLES:
                known.append(example)

    def add_shard(self, row: ShardRow) -> None:
        """Take a shard that ended, if anything of it was reported."""
        if spent_seconds(row):
            bisect.insort(self.slowest, row, key=lambda shard: -spent_seconds(shard))
        del self.slowest[SLOWEST:]


def spent_seconds(shard: ShardRow) -> float:
    """Seconds of decode threads and labellers for a shard."""
    return (shard.decode_s or 0.0) + (shard.label_s or 0.0)
