"""The metrics of a run for Prometheus, through the metrics endpoint of Ray's node: `ray_label_…`, with the run_id.

In: reports of blocks, and shards that end. The driver sets all metrics, from the same reports as the tables, so the
totals agree. The counters count all work; the work for a shard that was labelled twice counts twice. `shards` counts
each ended shard once.
"""

from __future__ import annotations

import time

from ray.util.metrics import Counter, Gauge

from pipeline.stages.reports import Report

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
    """The metrics of one run. `num_shards`: pending shards."""

    def __init__(self, run_id: str, num_shards: int) -> None:
        self.num_left = num_shards
        self.counters = {name: Counter(f"label_{name}", help_text, ("run_id", *_TAGS.get(name, ())))
                         for name, help_text in COUNTERS.items()}
        self.gauges = {name: Gauge(f"label_{name}", help_text, ("run_id",)) for name, help_text in GAUGES.items()}
        for metric in (*self.counters.values(), *self.gauges.values()):
            metric.set_default_tags({"run_id": run_id})
        self.gauges["last_commit_timestamp_seconds"].set(time.time())
        self.gauges["shards_left"].set(num_shards)

    def add(self, report: Report) -> None:
        """Count a report."""
        values = {"images": sum(segment.num_images for segment in report.segments),
                  "read_bytes": sum(segment.num_bytes for segment in report.segments),
                  "decode_seconds": sum(segment.decode_s for segment in report.segments),
                  "network_seconds": report.label_s, "batch_slots": report.num_slots}
        for name, value in values.items():
            if value:
                self.counters[name].inc(value)
        for segment in report.segments:
            for error, number in segment.counts.rejected.items():
                self.counters["rejected"].inc(number, {"error": error})

    def end(self, status: str) -> None:
        """Count a shard that ended, as `committed` or `failed`."""
        self.num_left -= 1
        self.gauges["shards_left"].set(self.num_left)
        self.counters["shards"].inc(1, {"status": status})
        if status == "committed":
            self.gauges["last_commit_timestamp_seconds"].set(time.time())
