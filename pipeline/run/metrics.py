"""What a run tells Prometheus while it lasts, through the metrics endpoint of Ray's node: `ray_label_…`, with its run_id.

In: reports of blocks, and shards that end. The driver tells all of it, from the same reports as the tables, so the totals
are theirs. Counters count what was done, again where a shard was done again; `shards` counts those that ended, once.
"""

from __future__ import annotations

import time
from typing import Any

from ray.util.metrics import Counter, Gauge

COUNTERS = {  # exported as ray_label_<name>_total
    "images": "Images labelled or rejected",
    "rejected": "Images rejected, by reason code",
    "read_bytes": "Encoded bytes of images",
    "decode_seconds": "Seconds of decode threads",
    "network_seconds": "Seconds in which a labeller was busy",
    "batch_slots": "Images that the batches had room for: images over slots is how full they were",
    "shards": "Shards that ended, by status: committed or failed",
}
GAUGES = {  # exported as ray_label_<name>
    "last_commit_timestamp_seconds": "When a shard was last committed, or the run began",
    "shards_left": "Shards that have not ended yet; 0 says that the run is over",
}
_TAGS = {"rejected": ("error",), "shards": ("status",)}


class Metrics:
    """The series of one run. `num_shards`: that are pending."""

    def __init__(self, run_id: str, num_shards: int) -> None:
        self.num_left = num_shards
        self.counters = {name: Counter(f"label_{name}", told, ("run_id", *_TAGS.get(name, ())))
                         for name, told in COUNTERS.items()}
        self.gauges = {name: Gauge(f"label_{name}", told, ("run_id",)) for name, told in GAUGES.items()}
        for metric in (*self.counters.values(), *self.gauges.values()):
            metric.set_default_tags({"run_id": run_id})
        self.gauges["last_commit_timestamp_seconds"].set(time.time())
        self.gauges["shards_left"].set(num_shards)

    def add(self, report: dict[str, Any]) -> None:
        """Tell what a report says."""
        segments = report["segments"]
        values = {"images": sum(segment["num_images"] for segment in segments),
                  "read_bytes": sum(segment["num_bytes"] for segment in segments),
                  "decode_seconds": sum(segment["decode_s"] for segment in segments),
                  "network_seconds": report["label_s"], "batch_slots": report["num_slots"]}
        for name, value in values.items():
            if value:
                self.counters[name].inc(value)
        for entry in (entry for segment in segments for entry in segment["rejected"]):
            self.counters["rejected"].inc(entry["num_images"], {"error": entry["error"]})

    def end(self, status: str) -> None:
        """Tell that a shard ended."""
        self.num_left -= 1
        self.gauges["shards_left"].set(self.num_left)
        self.counters["shards"].inc(1, {"status": status})
        if status == "committed":
            self.gauges["last_commit_timestamp_seconds"].set(time.time())
