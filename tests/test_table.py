"""Answers -> rows, through a Parquet file and back."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.table import EMBEDDING, ROWS, SAMPLES, rows


def test_rows_keep_rejected_samples_with_null_answers(tmp_path):
    samples = pa.table([["s.tar"] * 3, [0, 1, 2], ["a", "b", "c"], [4, None, 6], [5, None, 7], ["0", "1", "2"],
                        [None, "truncated", None]], schema=SAMPLES)
    label_id = np.array([[2, 0], [1, 1], [0, 2]], np.int16)
    prob = np.array([[.7, .3], [.5, .5], [.6, .4]], np.float32)
    embedding = np.arange(3 * EMBEDDING, dtype=np.float32).reshape(3, EMBEDDING)
    made = rows(samples, label_id, prob, embedding, pa.array(["crane", "dog", "crane"]))
    pq.write_table(made, tmp_path / "t.parquet")
    back = pq.read_table(tmp_path / "t.parquet")
    assert back.schema.equals(ROWS)
    assert back["label_id"].to_pylist() == [2, None, 0] and back["label"].to_pylist() == ["crane", None, "crane"]
    assert back["top5"].to_pylist()[1] is None and back["embedding"].to_pylist()[1] is None
    assert back["top5"].to_pylist()[2] == [{"label_id": 0, "label": "crane", "prob": np.float32(.6)},
                                           {"label_id": 2, "label": "crane", "prob": np.float32(.4)}]
    assert back["embedding"].to_pylist()[2] == embedding[2].tolist()
    assert back["error"].to_pylist() == [None, "truncated", None]
