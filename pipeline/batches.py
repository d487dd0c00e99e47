"""What travels between the stages: tables of one row, one batch a row.

The reader gives `BATCH`, the labeller `LABELLED`, the sink `REPORT`. Identity travels with the pixels; pixels cross the
object store once, as uint8, and rows once.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.counts import CONFIDENCE, LABELS, REJECTED
from pipeline.gallery import PICTURES
from pipeline.table import ROWS, SAMPLES

BATCH = pa.schema([
    ("shard", pa.string()),
    ("uri", pa.string()),
    ("size", pa.int64()),         # of the shard, in bytes, as it was read
    ("etag", pa.string()),        # the version that was read
    ("first", pa.int32()),        # index of the first sample
    ("end", pa.bool_()),          # these samples are the shard's last
    ("failure", pa.string()),     # null, or why the shard cannot be finished
    ("passing", pa.bool_()),      # the failure may pass: another attempt is worth it
    ("num_bytes", pa.int64()),    # of the encoded images
    ("decode_s", pa.float64()),   # spent decoding, all threads together
    ("samples", pa.list_(pa.struct(list(SAMPLES)))),
    ("pixels", pa.large_binary()),  # uint8 [N, 299, 299, 3], N = number of samples
])

LABELLED = pa.schema([
    *(field for field in BATCH if field.name not in ("samples", "pixels")),
    ("label_s", pa.float64()),   # in which the labeller was busy with it, and not with the batch before
    ("precision", pa.string()),  # that the network ran in
    ("pictures", PICTURES),      # of a few of these images
    ("rows", pa.list_(pa.struct(list(ROWS)))),
])

_EXAMPLE = pa.struct([ROWS.field(name) for name in ("error", "shard", "index", "key")])

REPORT = pa.schema([
    *(field for field in LABELLED if field.name != "rows"),
    ("num_images", pa.int64()),  # these are the batch's `Counts`
    ("num_rejected", pa.int64()),
    ("rejected", REJECTED),
    ("labels", LABELS),
    ("confidence", CONFIDENCE),
    ("examples", pa.list_(_EXAMPLE)),  # the first of the batch's images rejected for each reason
    ("file_size", pa.int64()),   # of the committed file, if this batch completed its shard; else null
    ("file_etag", pa.string()),
])


def samples_of(batch: pa.Table) -> pa.Table:
    """The samples of a one-row table of `BATCH`, as a table of `SAMPLES`."""
    return pa.Table.from_struct_array(batch["samples"].chunk(0).flatten()).cast(SAMPLES)
