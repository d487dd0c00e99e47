"""What travels between the stages: tables of one row, and the row is one block.

A block holds images of one shard or of several: its segments say which, in order. The reader gives `BLOCK`, the labeller
`LABELLED`, the sink `REPORT`. Identity travels with the pixels; pixels cross the object store once, as uint8, and answers
once. The schemas, and what packs and unpacks them, are here; who fills them is not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.formats.left_out import LEFT_OUT
from pipeline.model.spec import INPUT_SIZE
from pipeline.report.gallery import PICTURES, PIXELS
from pipeline.tables.counts import CONFIDENCE, LABELS, REJECTED
from pipeline.tables.labels import ROWS, SAMPLES

IMAGE_BYTES = INPUT_SIZE * INPUT_SIZE * 3

_SEGMENT = [
    ("number", pa.int32()),       # which of the run's pending shards it is
    ("shard", pa.string()),
    ("uri", pa.string()),
    ("size", pa.int64()),         # of the shard, in bytes, as it was read
    ("etag", pa.string()),        # the version that was read
    ("first", pa.int32()),        # index of the first sample
    ("num_images", pa.int32()),   # samples of it in this block
    ("end", pa.bool_()),          # these samples are the shard's last
    ("failure", pa.string()),     # null, or why the shard cannot be finished; its samples here are to be passed over
    ("retryable", pa.bool_()),    # the failure may pass: another attempt is worth it
    ("num_bytes", pa.int64()),    # of the encoded images
    ("decode_s", pa.float64()),   # spent decoding, all threads together
    ("left_out", LEFT_OUT),       # of the shard, where it ends: what of it gave no sample
]
SEGMENT = pa.struct(_SEGMENT)

BLOCK = pa.schema([
    ("segments", pa.list_(SEGMENT)),
    ("node", pa.string()),          # where it was decoded
    ("samples", pa.list_(pa.struct(list(SAMPLES)))),
    ("pixels", pa.large_binary()),  # uint8 [N, 299, 299, 3], N = number of samples
])

_LABELLING = [
    ("label_s", pa.float64()),      # in which the labeller was busy with it, and not with the block before
    ("num_slots", pa.int32()),      # images that the device's batches had room for
    ("precision", pa.string()),     # that the network ran in
    ("runner", pa.string()),        # what ran it: cpu, fast or plain
    ("runner_note", pa.string()),   # why it is not the fast one, if the reader should know
]

LABELLED = pa.schema([
    *(BLOCK.field(name) for name in ("segments", "samples")),
    *_LABELLING,
    ("moved", pa.bool_()),           # it was labelled on another node than decoded
    ("answers", pa.large_binary()),  # float32 [N, 2k + 1536], as the network gives them
    ("pictures", PIXELS),            # of a few of these images
])

_EXAMPLE = pa.struct([ROWS.field(name) for name in ("error", "shard", "index", "key")])

REPORT = pa.schema([
    ("segments", pa.list_(pa.struct([
        *_SEGMENT,
        ("num_rejected", pa.int64()),  # these are the segment's `Counts`
        ("rejected", REJECTED),
        ("labels", LABELS),
        ("confidence", CONFIDENCE),
        ("label_s", pa.float64()),     # its share of the blocks'
        ("examples", pa.list_(_EXAMPLE)),  # its first image rejected for each reason
        ("file_size", pa.int64()),     # of the committed file, if the shard was completed; else null
        ("file_etag", pa.string()),
    ]))),
    *_LABELLING,
    ("num_blocks", pa.int32()),
    ("num_moved", pa.int32()),         # blocks that were labelled on another node than decoded
    ("pictures", PICTURES),
])


def pack_block(segments: list[dict[str, Any]], samples: dict[str, list[Any]], pixels_NHWC: np.ndarray, node: str) -> pa.Table:
    """A table of `BLOCK`. The pixels are not copied.

    Args:
        segments: as dicts of `SEGMENT`, in the order of their samples.
        samples: columns of `SAMPLES` but for the shard, which the segments tell.
        pixels_NHWC: uint8 [at least N, 299, 299, 3].
    """
    num_each = np.array([segment["num_images"] for segment in segments])
    shards = pa.array([segment["shard"] for segment in segments], pa.string())
    columns = {"shard": shards.take(pa.array(np.repeat(np.arange(len(segments)), num_each)))}
    columns |= {name: pa.array(values, SAMPLES.field(name).type) for name, values in samples.items()}
    made = pa.StructArray.from_arrays([columns[name] for name in SAMPLES.names], fields=list(SAMPLES))
    values = {"segments": pa.array([segments], BLOCK.field("segments").type), "node": pa.array([node], pa.string()),
              "samples": _one(made, BLOCK.field("samples").type), "pixels": _binary(pixels_NHWC, len(made) * IMAGE_BYTES)}
    return pa.table([values[name] for name in BLOCK.names], schema=BLOCK)


def pack_failures(schema: pa.Schema, segments: list[dict[str, Any]]) -> pa.Table:
    """A table of `BLOCK`, `LABELLED` or `REPORT` that holds failed segments and no image."""
    empty = {"segments": segments, "samples": [], "pixels": b"", "answers": b"", "pictures": [], "label_s": 0.0, "num_slots": 0,
             "num_blocks": 0, "num_moved": 0, "moved": False}
    return pa.Table.from_pylist([{name: empty.get(name) for name in schema.names}], schema=schema)


def fail(segment: dict[str, Any], failure: str, retryable: bool) -> dict[str, Any]:
    """A segment, or a row of the shards that a reader gets, as a failed segment without images; with fields that a report has."""
    names = [name for name, _ in _SEGMENT]
    known = {"size": 0, "etag": "", "first": 0, "num_bytes": 0, "decode_s": 0.0, "left_out": []} | {
        name: segment[name] for name in names if segment.get(name) is not None}
    return known | {"num_images": 0, "end": False, "failure": failure, "retryable": retryable, "num_rejected": 0, "rejected": [],
                    "labels": [], "confidence": [], "label_s": 0.0, "examples": [], "file_size": None, "file_etag": None}


def segments_of(block: pa.Table, row: int = 0) -> list[dict[str, Any]]:
    """The segments of a row of `BLOCK`, `LABELLED` or `REPORT`."""
    return list(block["segments"][row].as_py())


def samples_of(block: pa.Table, row: int = 0) -> pa.Table:
    """The samples of a row of `BLOCK` or `LABELLED`, as a table of `SAMPLES`."""
    return pa.Table.from_struct_array(block["samples"][row].values).cast(SAMPLES)


def pixels_of(block: pa.Table) -> np.ndarray:
    """The pixels of a one-row table of `BLOCK`, uint8 [N, 299, 299, 3], not copied and not to be written to."""
    return _bytes_of(block["pixels"], 0).reshape(-1, INPUT_SIZE, INPUT_SIZE, 3)


def pack_answers(answer_NK: np.ndarray) -> pa.Array:
    """Answers, float32 [N, K], as the one value of a column. Not copied if they are contiguous."""
    return _binary(np.ascontiguousarray(answer_NK, np.float32), answer_NK.size * 4)


def answers_of(block: pa.Table, row: int, num_images: int) -> np.ndarray:
    """The answers of a row of `LABELLED`, float32 [num_images, K], not copied."""
    flat = _bytes_of(block["answers"], row).view(np.float32)
    return flat.reshape(num_images, len(flat) // max(1, num_images))


def _one(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """All values as the one list of a column."""
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values, type=kind)


def _binary(array: np.ndarray, num_bytes: int) -> pa.Array:
    """The first bytes of a contiguous array as the one value of a column."""
    offsets = pa.py_buffer(np.array([0, num_bytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])


def _bytes_of(column: pa.ChunkedArray, row: int) -> np.ndarray:
    """A value of a column of large_binary, uint8, not copied (which `Scalar.as_buffer` would do)."""
    for chunk in column.chunks:
        if row < len(chunk):
            _, offsets, data = chunk.buffers()
            start, stop = np.frombuffer(offsets, np.int64, 2, (chunk.offset + row) * 8)
            return np.frombuffer(data, np.uint8, stop - start, start) if stop > start else np.empty(0, np.uint8)
        row -= len(chunk)
    raise IndexError(row)
