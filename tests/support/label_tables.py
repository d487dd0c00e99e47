"""Outputs with given probabilities, and the truth of their images."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.model.classes import SCHEMA
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.tables import ledger
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.truth.matching import GIVEN_TRUTHS
from pipeline.truth.sources import Truth

MODEL = "inception_v4-00000000"
FOUR = pa.table([[0, 1, 2, 3], [None] * 4, ["cat", "dog", "owl", "newt"]], schema=SCHEMA)


def tables(folder, prob_NC, classes=FOUR, errors=None, model=MODEL, embedding=None, digests=None):
    """An output whose images have these probabilities, keys k0, k1, … in one shard."""
    count, k = len(prob_NC), min(5, len(classes))
    samples = pa.table([["a.tar"] * count, range(count), [f"k{n}" for n in range(count)], [9] * count, [9] * count,
                        digests or [f"{n:064}" for n in range(count)], errors or [None] * count], schema=SAMPLES)
    label_id = np.argsort(-prob_NC, axis=1, kind="stable")[:, :k]
    prob = np.take_along_axis(prob_NC, label_id, 1).astype(np.float32)
    if embedding is None:
        embedding = np.zeros((count, EMBEDDING_SIZE), np.float32)
    made = make_rows(samples, Answers(label_id.astype(np.int16), prob, embedding), classes["label"].combine_chunks())
    (folder / f"labels/model={model}").mkdir(parents=True)
    (folder / "classes").mkdir()
    pq.write_table(made, folder / f"labels/model={model}/a.tar.parquet")
    pq.write_table(classes, folder / f"classes/{model}.parquet")
    ledger.write(str(folder), "shards", "r", [], ledger.SHARDS)
    ledger.write(str(folder), "runs", "r", [], ledger.RUNS)
    return str(folder)


def said(values, shard="a.tar", kind=None, names=None):
    """What reads a truth of the images k0, k1, …, as `evaluate` asks for it."""
    rows = [{"shard": shard, "name": name, "value": str(value), "strange": False, "line": None}
            for name, value in zip(names or [f"k{n}" for n in range(len(values))], values, strict=True)]
    return lambda images: Truth("test", pa.Table.from_pylist(rows, schema=GIVEN_TRUTHS), kind)
