"""Outputs with given embeddings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.model.classes import load_classes
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.stages.sink import Sink
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.tables.layout import classes_uri

MODEL = "inception_v4-00000001"


def write_table(output: str, shard: str, embedding_ND: np.ndarray, *, sizes: list[int] | None = None,
                etag: str = "e1", errors: list[str | None] | None = None) -> None:
    """The table of a shard with these embeddings. Keys are k0, k1, …; images are squares of `sizes`, else of 9."""
    number = len(embedding_ND)
    side = sizes or [9] * number
    samples = pa.table([[shard] * number, range(number), [f"k{i}" for i in range(number)], side, side,
                        [hashlib.sha256(f"{shard} {i}".encode()).hexdigest() for i in range(number)],
                        errors or [None] * number], schema=SAMPLES)
    answers = Answers(np.zeros((number, 5), np.int16), np.ones((number, 5), np.float32), embedding_ND)
    rows = make_rows(samples, answers, load_classes()["label"].combine_chunks())
    source = ShardVersion(shard, f"{output}/../in/{shard}", 10240, etag)
    assert Sink(output, "20260101T000000-aaaaaa", MODEL).write(source, rows, 0, True)


def make_output(folder: Path, embedding_ND: np.ndarray, rows_of_table: int, **options: object) -> str:
    """An output whose tables have so many rows each."""
    output = str(folder / "out")
    for number, start in enumerate(range(0, len(embedding_ND), rows_of_table)):
        write_table(output, f"{number:04}.tar", embedding_ND[start:start + rows_of_table])
    place = Path(classes_uri(output, MODEL))
    place.parent.mkdir(exist_ok=True)
    pq.write_table(load_classes(), place)
    (Path(output) / "input.json").write_text(json.dumps({"input": str(folder / "in")}))
    return output


def clusters(rng: np.random.Generator, sizes: list[int], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors around random centres, float32 [N, 1536], in random order; and the centre of each, int64 [N]."""
    of_N = np.repeat(np.arange(len(sizes)), sizes)
    rng.shuffle(of_N)
    centre_CD = rng.standard_normal((len(sizes), EMBEDDING_SIZE), dtype=np.float32)
    return centre_CD[of_N] + noise * rng.standard_normal((len(of_N), EMBEDDING_SIZE), dtype=np.float32), of_N
