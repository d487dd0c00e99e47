"""The rows of the ledger: the schemas of the tables `shards` and `runs`, and a dataclass for a row of each.

The fields of a dataclass are the columns of its schema, in the same order, so a column cannot be lost by a renaming.
Not here: the files of the ledger (`ledger`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from pipeline.formats.left_out import LEFT_OUT
from pipeline.tables.counts import CONFIDENCE, LABELS, REJECTED

SHARDS = pa.schema([  # one row a shard and run
    ("run_id", pa.string()),
    ("shard", pa.string()),          # path relative to the input
    ("source_uri", pa.string()),
    ("source_size", pa.int64()),     # bytes
    ("source_etag", pa.string()),
    ("model_id", pa.string()),
    ("status", pa.string()),         # committed, failed or removed
    ("failure", pa.string()),        # null, or why the shard failed or was removed
    ("num_images", pa.int64()),
    ("num_rejected", pa.int64()),
    ("rejected", REJECTED),          # by reason code
    ("num_left_out", pa.int64()),    # members that gave no row and belong to no image
    ("left_out", LEFT_OUT),          # by reason and suffix
    ("image_bytes", pa.int64()),     # encoded
    ("decode_s", pa.float64()),      # seconds of decode threads
    ("label_s", pa.float64()),       # seconds in which a labeller was busy
    ("file", pa.string()),           # relative to labels/model=<model_id>/
    ("file_size", pa.int64()),       # bytes
    ("file_etag", pa.string()),
    ("labelled_at", pa.timestamp("us", "UTC")),
])

RUNS = pa.schema([  # one row a run
    ("run_id", pa.string()),
    ("status", pa.string()),         # running, done, failed; killed, if a later run found it running
    ("started_at", pa.timestamp("us", "UTC")),
    ("seconds", pa.float64()),
    ("input", pa.string()),
    ("model_id", pa.string()),
    ("device", pa.string()),
    ("precision", pa.string()),
    ("runner", pa.string()),         # of the network: cpu, openvino, fast, or plain where the fast one was not trusted
    ("hardware", pa.string()),
    ("versions", pa.string()),       # JSON
    ("config", pa.string()),         # JSON
    ("pending_bytes", pa.int64()),   # of the shards that were to be labelled
    ("num_skipped", pa.int64()),     # shards that were done before
    ("num_committed", pa.int64()),
    ("num_failed", pa.int64()),
    ("num_orphans", pa.int64()),     # tables of shards that are gone from the input (or from --partition)
    ("num_images", pa.int64()),
    ("num_rejected", pa.int64()),
    ("rejected", REJECTED),
    ("num_left_out", pa.int64()),    # files of the input, and members of the shards of this run, that gave no row
    ("left_out", LEFT_OUT),
    ("labels", LABELS),              # images by label_id
    ("confidence", CONFIDENCE),      # images by prob: 20 bins from 0 to 1
    ("images_per_s", pa.float64()),  # from the first attempt to the last
    ("cpu_s", pa.float64()),         # CPU seconds of decoders, and of labellers on CPUs
    ("gpu_s", pa.float64()),         # GPU seconds of labellers
    ("held_cpu_s", pa.float64()),    # seconds for which the nodes were there, busy or not, times their CPUs
    ("held_gpu_s", pa.float64()),    # the same times their GPUs
    ("cost", pa.float64()),          # of these, at the prices of --price
])


@dataclass(kw_only=True, slots=True)
class ShardRow:
    """A row of `SHARDS`.

    None stands for null: where nobody reported the value, or where an older file has no such column.
    """

    run_id: str | None
    shard: str
    source_uri: str | None
    source_size: int | None
    source_etag: str | None
    model_id: str | None
    status: str
    failure: str | None
    num_images: int | None
    num_rejected: int | None
    rejected: list[dict[str, Any]] | None
    num_left_out: int | None
    left_out: list[dict[str, Any]] | None
    image_bytes: int | None
    decode_s: float | None
    label_s: float | None
    file: str | None
    file_size: int | None
    file_etag: str | None
    labelled_at: datetime | None


@dataclass(kw_only=True, slots=True)
class RunRow:
    """A row of `RUNS`.

    None stands for null: where an older file has no such column, or where a killed run could not say.
    """

    run_id: str
    status: str
    started_at: datetime | None
    seconds: float | None
    input: str | None
    model_id: str | None
    device: str | None
    precision: str | None
    runner: str | None
    hardware: str | None
    versions: str | None
    config: str | None
    pending_bytes: int | None
    num_skipped: int | None
    num_committed: int | None
    num_failed: int | None
    num_orphans: int | None
    num_images: int | None
    num_rejected: int | None
    rejected: list[dict[str, Any]] | None
    num_left_out: int | None
    left_out: list[dict[str, Any]] | None
    labels: list[dict[str, Any]] | None
    confidence: list[int] | None
    images_per_s: float | None
    cpu_s: float | None
    gpu_s: float | None
    held_cpu_s: float | None
    held_gpu_s: float | None
    cost: float | None


def to_columns(row: ShardRow | RunRow) -> dict[str, Any]:
    """A row as a dict by column. Lists are not copied."""
    return {field.name: getattr(row, field.name) for field in fields(row)}
