"""Benchmark part `sql`: DuckDB over the same rows in few and in many tables; the neighbours of an image in a million.

The sink writes the tables to the local disk. The labels are as skewed as real labels. The embeddings are noise, which
no codec makes smaller. Reads come from the page cache; object storage would add round trips for each file.
"""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import pyarrow as pa

from pipeline.bench.measure import Part, Setting
from pipeline.model.classes import SCHEMA, load_classes
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.stages.sink import Sink
from pipeline.tables import ledger
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.tables.ledger_rows import RUNS, SHARDS

NUM_ROWS = 100_000
TABLE_ROWS = (20, 100, 1000, 10_000)
NEIGHBOUR_ROWS = 10**6
MODEL_ID = "inception_v4-00000000"
QUESTIONS: dict[str, dict[str, str]] = {"labels": {}, "duplicates": {}, "neighbours": {"key": "image-000007"}}


def measure(setting: Setting) -> Part:
    """Ratios `sql_labels_20_over_10000` (of the seconds at 20 and at 10,000 rows a table) and `neighbours_1e6_s`."""
    seconds: dict[int, dict[str, float]] = {}
    for number in TABLE_ROWS:
        output = os.path.join(setting.folder, f"tables-{number}")
        _write(output, NUM_ROWS, number)
        seconds[number] = {name: _ask(output, name, setting.repeats) for name in QUESTIONS}
        shutil.rmtree(output)
    output = os.path.join(setting.folder, "million")
    _write(output, NEIGHBOUR_ROWS, max(TABLE_ROWS))
    million = _ask(output, "neighbours", setting.repeats)
    shutil.rmtree(output)
    print(f"\nsql, {NUM_ROWS:,} rows ({setting.repeats} rounds), seconds")
    print(f"  {'rows a table':>14} {'tables':>7}" + "".join(f"{name:>12}" for name in QUESTIONS))
    for number, of_questions in seconds.items():
        print(f"  {number:14,} {NUM_ROWS // number:7,}" + "".join(f"{value:12.2f}" for value in of_questions.values()))
    print(f"  neighbours of one image among {NEIGHBOUR_ROWS:,}: {million:.1f} s")
    most = max(TABLE_ROWS)
    ratio = seconds[20]["labels"] / seconds[most]["labels"]
    return Part({f"sql_labels_20_over_{most}": ratio, "neighbours_1e6_s": million},
                {"sql": {str(number): of_questions for number, of_questions in seconds.items()}})


def _ask(output: str, name: str, repeats: int) -> float:
    """Seconds of a named query with new views. One more time comes first and does not count."""
    from pipeline.ask.query import ask, connect

    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        connection = connect(output)
        ask(connection, name, QUESTIONS[name]).fetchall()
        seconds.append(time.perf_counter() - begun)
        connection.close()
    return median(seconds[1:])


def _write(output: str, num_rows: int, table_rows: int) -> None:
    """Write `num_rows` invented rows as tables, and the files of the ledger that the views read."""
    classes = load_classes(None)
    labels = classes["label"].combine_chunks()
    for name, schema in (("runs", RUNS), ("shards", SHARDS)):
        ledger.write(output, name, "bench", [{"run_id": "bench", "model_id": MODEL_ID}], schema)
    ledger.write(output, "classes", MODEL_ID, classes.to_pylist(), SCHEMA)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda first: _write_table(output, first, table_rows, labels), range(0, num_rows, table_rows)))


def _write_table(output: str, first: int, number: int, labels: pa.Array) -> None:
    rng, indices, shard = np.random.default_rng(first), np.arange(number), f"shard-{first:07}.tar"
    ids = [f"image-{first + index:06}" for index in indices]
    samples = pa.table([[shard] * number, indices, ids, [500] * number, [375] * number,
                        [f"{image_id:0>64}" for image_id in ids], [None] * number], schema=SAMPLES)
    label_id = np.minimum(rng.zipf(1.3, (number, 5)) - 1, len(labels) - 1).astype(np.int16)
    prob = np.sort(rng.random((number, 5), np.float32))[:, ::-1]
    embedding = np.abs(rng.standard_normal((number, EMBEDDING_SIZE), np.float32))
    rows = make_rows(samples, Answers(label_id, prob, embedding), labels)
    Sink(output, "bench", MODEL_ID).write(ShardVersion(shard, shard, number, "bench"), rows, 0, True)
