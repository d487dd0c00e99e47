"""The labels table: its schema, and answers -> rows.

In: what the decoder says of each sample, and the answers of the network for the sample. Out: an Arrow table of `ROWS`.
Not here: files (`label_files`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.model.spec import EMBEDDING_SIZE

TOP5 = pa.list_(pa.struct([("label_id", pa.int16()), ("label", pa.string()), ("prob", pa.float32())]))

SAMPLES = pa.schema([
    ("shard", pa.string()),    # path relative to the input
    ("index", pa.int32()),     # ordinal of the sample in its shard
    ("key", pa.string()),      # member path up to the first dot of its base name
    ("width", pa.int32()),     # of the encoded image, as stored
    ("height", pa.int32()),
    ("sha256", pa.string()),   # of the encoded bytes, hex
    ("error", pa.string()),    # null, or a reason code
])

ROWS = pa.schema([
    *(SAMPLES.field(name) for name in ("shard", "index", "key", "width", "height", "sha256")),
    ("label_id", pa.int16()),  # top-1
    ("label", pa.string()),
    ("prob", pa.float32()),
    ("top5", TOP5),            # best first
    ("embedding", pa.list_(pa.float32(), EMBEDDING_SIZE)),
    SAMPLES.field("error"),
])


NOT_FINITE = "not_finite"  # the reason code of an image whose answers are infinite or not a number


class Answers(NamedTuple):
    """The answers of the network for N images, the best first. k is 5, or the number of classes if there are fewer."""

    label_id: np.ndarray[Any, Any]  # int16 [N, k]
    prob: np.ndarray[Any, Any]  # float32 [N, k]
    embedding: np.ndarray[Any, Any]  # float32 [N, 1536]


def split_answers(answer_NK: np.ndarray[Any, Any]) -> Answers:
    """The answers that the network gives as one tensor, float32 [N, 2k + 1536].

    A label_id that is not finite becomes 0.
    """
    k = (answer_NK.shape[1] - EMBEDDING_SIZE) // 2
    label_id = np.nan_to_num(answer_NK[:, :k], nan=0, posinf=0, neginf=0).astype(np.int16)
    return Answers(label_id, answer_NK[:, k:2 * k], answer_NK[:, 2 * k:])


def make_rows(samples: pa.Table, answers: Answers, labels: pa.Array) -> pa.Table:
    """The rows of N samples, as a table of `ROWS`. A rejected sample keeps its row, and its answers are null.

    A sample whose answers are not all finite is rejected as `not_finite`: half precision ends at 65,504.

    Args:
        samples: table of `SAMPLES`, N rows.
        answers: of the N samples, in their order.
        labels: the label of each label_id.
    """
    label_id, prob, embedding = answers
    broken = ~(np.isfinite(embedding).all(axis=1) & np.isfinite(prob).all(axis=1))
    errors = pc.if_else(pa.array(broken), pc.coalesce(samples["error"], pa.scalar(NOT_FINITE)), samples["error"])
    is_rejected = errors.is_valid()
    rejected = is_rejected.to_numpy()
    num_rows, k = label_id.shape
    flat_id = pa.array(label_id.reshape(-1), pa.int16())
    flat_prob = pa.array(np.ascontiguousarray(prob).reshape(-1), pa.float32())
    structs = pa.StructArray.from_arrays([flat_id, labels.take(flat_id), flat_prob], fields=list(TOP5.value_type))
    top5 = pa.ListArray.from_arrays(pa.array(np.arange(num_rows + 1, dtype=np.int32) * k), structs, type=TOP5)
    best_id = pa.array(label_id[:, 0], pa.int16(), mask=rejected)
    numbers = pa.array(np.ascontiguousarray(embedding).reshape(-1), pa.float32())
    columns = {
        "label_id": best_id,
        "label": labels.take(best_id),
        "prob": pa.array(prob[:, 0], pa.float32(), mask=rejected),
        "top5": pc.if_else(is_rejected, pa.scalar(None, TOP5), top5),
        "embedding": pc.if_else(is_rejected, pa.scalar(None, ROWS.field("embedding").type),
                                pa.FixedSizeListArray.from_arrays(numbers, EMBEDDING_SIZE)),
        "error": errors,
    }
    return pa.table([columns[name] if name in columns else samples[name] for name in ROWS.names], schema=ROWS)
