"""The blocks that travel between the stages: the schemas `BLOCK` and `LABELLED`, and the functions that pack and
unpack them.

A block is a table of one row. A block holds images of one shard or of several shards; its segments say which, in
order. The reader gives `BLOCK`, the labeller gives `LABELLED`, the sink gives a report (`reports`). Identity travels
with the pixels: the pixels cross the object store once, as uint8, and the answers cross it once.
Not here: who fills the blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.formats.kept import KEPT
from pipeline.formats.left_out import LEFT_OUT
from pipeline.model.spec import INPUT_SIZE
from pipeline.report.gallery import PIXELS
from pipeline.tables.labels import SAMPLES

IMAGE_BYTES = INPUT_SIZE * INPUT_SIZE * 3

SEGMENT_FIELDS = [
    ("number", pa.int32()),       # index of the shard among the pending shards of the run
    ("shard", pa.string()),
    ("uri", pa.string()),
    ("size", pa.int64()),         # bytes of the shard as the reader read it
    ("etag", pa.string()),        # version that the reader read
    ("first", pa.int32()),        # index of the first sample
    ("num_images", pa.int32()),   # samples of the shard in this block
    ("end", pa.bool_()),          # these samples are the last of the shard
    ("failure", pa.string()),     # null, or why the shard cannot be finished; then the samples here do not count
    ("retryable", pa.bool_()),    # another attempt may succeed
    ("num_bytes", pa.int64()),    # of the encoded images
    ("decode_s", pa.float64()),   # seconds of all decode threads together
    ("left_out", LEFT_OUT),       # members of the shard that gave no sample; only where the shard ends
]
SEGMENT = pa.struct(SEGMENT_FIELDS)

BLOCK = pa.schema([
    ("segments", pa.list_(SEGMENT)),
    ("node", pa.string()),          # where the images were decoded
    ("samples", pa.list_(pa.struct(list(SAMPLES)))),
    ("kept", pa.list_(KEPT)),       # the values of --keep of each sample; null if there are none to keep
    ("pixels", pa.large_binary()),  # uint8 [N, 299, 299, 3], N = number of samples
])

LABELLING_FIELDS = [
    ("label_s", pa.float64()),      # seconds in which the labeller was busy with this block and no block before
    ("num_slots", pa.int32()),      # images that the batches of the device had room for
    ("precision", pa.string()),     # of the network's arithmetic
    ("runner", pa.string()),        # cpu, openvino, fast or plain
    ("runner_note", pa.string()),   # why the runner is not the fast one, if the user should know
]

LABELLED = pa.schema([
    *(BLOCK.field(name) for name in ("segments", "samples", "kept")),
    *LABELLING_FIELDS,
    ("moved", pa.bool_()),           # the labeller and the reader ran on different nodes
    ("answers", pa.large_binary()),  # float32 [N, 2k + 1536], as the network gives them
    ("pictures", PIXELS),            # of a few of these images
])

def pack_block(segments: list[dict[str, Any]], samples: dict[str, list[Any]], pixels_NHWC: np.ndarray,
               node: str, kept: list[tuple[str | None, ...]] | None = None) -> pa.Table:
    """A table of `BLOCK`. The pixels are not copied.

    Args:
        segments: dicts of `SEGMENT`, in the order of their samples.
        samples: all columns of `SAMPLES` except the shard, which comes from the segments.
        pixels_NHWC: uint8 [at least N, 299, 299, 3].
        node: where the images were decoded.
        kept: the values of `--keep` of each sample; None: there are none to keep.
    """
    num_each = np.array([segment["num_images"] for segment in segments])
    shards = pa.array([segment["shard"] for segment in segments], pa.string())
    columns = {"shard": shards.take(pa.array(np.repeat(np.arange(len(segments)), num_each)))}
    columns |= {name: pa.array(values, SAMPLES.field(name).type) for name, values in samples.items()}
    structs = pa.StructArray.from_arrays([columns[name] for name in SAMPLES.names], fields=list(SAMPLES))
    values = {"segments": pa.array([segments], BLOCK.field("segments").type), "node": pa.array([node], pa.string()),
              "samples": pa.ListArray.from_arrays(pa.array([0, len(structs)], pa.int32()), structs,
                                                  type=BLOCK.field("samples").type),
              "kept": pa.array([kept], BLOCK.field("kept").type),
              "pixels": _as_one_binary(pixels_NHWC, len(structs) * IMAGE_BYTES)}
    return pa.table([values[name] for name in BLOCK.names], schema=BLOCK)


def pack_failures(schema: pa.Schema, segments: list[dict[str, Any]]) -> pa.Table:
    """A table of `BLOCK`, `LABELLED` or `REPORT` that holds failed segments and no image."""
    values = {"segments": segments, "samples": [], "pixels": b"", "answers": b"", "pictures": [], "label_s": 0.0,
              "num_slots": 0, "num_blocks": 0, "num_moved": 0, "moved": False}
    return pa.Table.from_pylist([{name: values.get(name) for name in schema.names}], schema=schema)


def fail_segment(segment: dict[str, Any], failure: str, retryable: bool) -> dict[str, Any]:
    """A failed segment without images, as a dict of `SEGMENT` and of the segments of a report.

    Args:
        segment: a segment, or a row of the shards that a reader gets.
        failure: why the shard cannot be finished.
        retryable: whether another attempt may succeed.
    """
    defaults = {"size": 0, "etag": "", "first": 0, "num_bytes": 0, "decode_s": 0.0, "left_out": []}
    known = {name: segment[name] for name, _ in SEGMENT_FIELDS if segment.get(name) is not None}
    return defaults | known | {
        "num_images": 0, "end": False, "failure": failure, "retryable": retryable, "num_rejected": 0, "rejected": [],
        "labels": [], "confidence": [], "label_s": 0.0, "examples": [], "file_size": None, "file_etag": None}


def segments_of(block: pa.Table, row: int = 0) -> list[dict[str, Any]]:
    """The segments of a row of `BLOCK`, `LABELLED` or `REPORT`."""
    return list(block["segments"][row].as_py())


def samples_of(block: pa.Table, row: int = 0) -> pa.Table:
    """The samples of a row of `BLOCK` or `LABELLED`, as a table of `SAMPLES`."""
    return pa.Table.from_struct_array(block["samples"][row].values).cast(SAMPLES)


def kept_of(block: pa.Table, row: int) -> pa.Array:
    """The values of `--keep` of the samples of a row of `LABELLED`, as an array of `KEPT`."""
    return block["kept"].slice(row, 1).combine_chunks().flatten()


def pixels_of(block: pa.Table) -> np.ndarray:
    """The pixels of a one-row table of `BLOCK`, uint8 [N, 299, 299, 3].

    They are not copied; nobody may write to them.
    """
    return _bytes_of(block["pixels"], 0).reshape(-1, INPUT_SIZE, INPUT_SIZE, 3)


def pack_answers(answer_NK: np.ndarray) -> pa.Array:
    """Answers, float32 [N, K], as the one value of a column. They are copied only if they are not contiguous."""
    return _as_one_binary(np.ascontiguousarray(answer_NK, np.float32), answer_NK.size * 4)


def answers_of(block: pa.Table, row: int, num_images: int) -> np.ndarray:
    """The answers of a row of `LABELLED`, float32 [num_images, K], not copied."""
    flat = _bytes_of(block["answers"], row).view(np.float32)
    return flat.reshape(num_images, len(flat) // max(1, num_images))


def _as_one_binary(array: np.ndarray, num_bytes: int) -> pa.Array:
    """The first bytes of a contiguous array as the one value of a column."""
    offsets = pa.py_buffer(np.array([0, num_bytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])


def _bytes_of(column: pa.ChunkedArray, row: int) -> np.ndarray:
    """A value of a column of large_binary, uint8. It is not copied, as `Scalar.as_buffer` does."""
    for chunk in column.chunks:
        if row < len(chunk):
            _, offsets, data = chunk.buffers()
            start, stop = np.frombuffer(offsets, np.int64, 2, (chunk.offset + row) * 8)
            return np.frombuffer(data, np.uint8, stop - start, start) if stop > start else np.empty(0, np.uint8)
        row -= len(chunk)
    raise IndexError(row)
