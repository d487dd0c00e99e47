"""Answers -> rows, through a Parquet file and back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.tables.labels import NOT_FINITE, ROWS, SAMPLES, Answers, make_rows, split_answers


def test_rows_keep_rejected_samples_with_null_answers(tmp_path):
    samples = pa.table([["s.tar"] * 3, [0, 1, 2], ["a", "b", "c"], [4, None, 6], [5, None, 7], ["0", "1", "2"],
                        [None, "truncated", None]], schema=SAMPLES)
    label_id = np.array([[2, 0], [1, 1], [0, 2]], np.int16)
    prob = np.array([[.7, .3], [.5, .5], [.6, .4]], np.float32)
    embedding = np.arange(3 * EMBEDDING_SIZE, dtype=np.float32).reshape(3, EMBEDDING_SIZE)
    made = make_rows(samples, Answers(label_id, prob, embedding), pa.array(["crane", "dog", "crane"]))
    pq.write_table(made, tmp_path / "t.parquet")
    back = pq.read_table(tmp_path / "t.parquet")
    assert back.schema.equals(ROWS)
    assert back["label_id"].to_pylist() == [2, None, 0] and back["label"].to_pylist() == ["crane", None, "crane"]
    assert back["top5"].to_pylist()[1] is None and back["embedding"].to_pylist()[1] is None
    assert back["top5"].to_pylist()[2] == [{"label_id": 0, "label": "crane", "prob": np.float32(.6)},
                                           {"label_id": 2, "label": "crane", "prob": np.float32(.4)}]
    assert back["embedding"].to_pylist()[2] == embedding[2].tolist()
    assert back["error"].to_pylist() == [None, "truncated", None]


def test_an_image_whose_answers_are_not_finite_is_a_row_with_a_reason():
    count, k = 6, 5
    samples = pa.table([["s.tar"] * count, range(count), list("abcdef"), [4] * count, [5] * count, list("012345"),
                        [None, None, "truncated", None, None, None]], schema=SAMPLES)
    answer_NK = np.full((count, 2 * k + EMBEDDING_SIZE), 0.25, np.float32)
    answer_NK[:, :k] = np.arange(k)
    answer_NK[1, 2 * k + 7] = np.inf
    answer_NK[2, 2 * k + 7] = np.nan
    answer_NK[3, k] = np.nan
    answer_NK[4, :] = np.nan
    made = make_rows(samples, split_answers(answer_NK), pa.array([f"label {n}" for n in range(k)]))
    assert made["error"].to_pylist() == [None, NOT_FINITE, "truncated", NOT_FINITE, NOT_FINITE, None]
    for name in ("label_id", "label", "prob", "top5", "embedding"):
        assert [value is None for value in made[name].to_pylist()] == [False, True, True, True, True, False], name
    assert made["sha256"].to_pylist() == list("012345") and made["width"].to_pylist() == [4] * count
