"""Benchmark part `sql`: the same rows in few and in many tables, asked by DuckDB; and the nearest neighbours of a million.

The tables are of the sink's own making, on the local disk, with made-up answers: labels as skewed as real ones, embeddings
of noise, which no codec makes smaller. Reads come from the page cache; object storage adds its round trips for each file.
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
from pipeline.stages.commit import ShardVersion, Sink
from pipeline.tables import ledger
from pipeline.tables.labels import SAMPLES, Answers, make_rows

NUM_ROWS = 100_000
ROWS_A_TABLE = (20, 100, 1000, 10_000)
MANY_ROWS = 10**6
MODEL_ID = "inception_v4-00000000"
QUESTIONS: dict[str, dict[str, str]] = {"labels": {}, "duplicates": {}, "neighbours": {"key": "image-000007"}}


def measure(setting: Setting) -> Part:
    """Ratios `sql_labels_20_over_10000` (seconds, tables of 20 rows over tables of 10,000) and `neighbours_1e6_s` (seconds)."""
    seconds: dict[int, dict[str, float]] = {}
    for number in ROWS_A_TABLE:
        output = os.path.join(setting.folder, f"tables-{number}")
        _write(output, NUM_ROWS, number)
        seconds[number] = {name: _ask(output, name, setting.repeats) for name in QUESTIONS}
        shutil.rmtree(output)
    output = os.path.join(setting.folder, "million")
    _write(output, MANY_ROWS, max(ROWS_A_TABLE))
    million = _ask(output, "neighbours", setting.repeats)
    shutil.rmtree(output)
    print(f"\nsql, {NUM_ROWS:,} rows ({setting.repeats} rounds), seconds")
    print(f"  {'rows a table':>14} {'tables':>7}" + "".join(f"{name:>12}" for name in QUESTIONS))
    for number, of_query in seconds.items():
        print(f"  {number:14,} {NUM_ROWS // number:7,}" + "".join(f"{value:12.2f}" for value in of_query.values()))
    print(f"  neighbours of one image among {MANY_ROWS:,}: {million:.1f} s")
    most = max(ROWS_A_TABLE)
    return Part({f"sql_labels_20_over_{most}": seconds[20]["labels"] / seconds[most]["labels"], "neighbours_1e6_s": million},
                {"sql": {str(number): of_query for number, of_query in seconds.items()}})


def _ask(output: str, name: str, repeats: int) -> float:
    """Seconds of a named query, its views made anew; the first time does not count."""
    from pipeline.tables.query import ask, connect

    taken = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        connection = connect(output)
        ask(connection, name, QUESTIONS[name]).fetchall()
        taken.append(time.perf_counter() - begun)
        connection.close()
    return median(taken[1:])


def _write(output: str, num_rows: int, rows_a_table: int) -> None:
    """Tables of made-up rows, the same whatever their number; and the ledger's files that the views look for."""
    classes = load_classes(None)
    labels = classes["label"].combine_chunks()
    for name, schema in (("runs", ledger.RUNS), ("shards", ledger.SHARDS)):
        ledger.write(output, name, "bench", [{"run_id": "bench", "model_id": MODEL_ID}], schema)
    ledger.write(output, "classes", MODEL_ID, classes.to_pylist(), SCHEMA)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda first: _table(output, first, rows_a_table, labels), range(0, num_rows, rows_a_table)))


def _table(output: str, first: int, number: int, labels: pa.Array) -> None:
    rng, indices, shard = np.random.default_rng(first), np.arange(number), f"shard-{first:07}.tar"
    ids = [f"image-{first + index:06}" for index in indices]
    samples = pa.table([[shard] * number, indices, ids, [500] * number, [375] * number, [f"{one:0>64}" for one in ids],
                        [None] * number], schema=SAMPLES)
    label_id = np.minimum(rng.zipf(1.3, (number, 5)) - 1, len(labels) - 1).astype(np.int16)
    prob = np.sort(rng.random((number, 5), np.float32))[:, ::-1]
    embedding = np.abs(rng.standard_normal((number, EMBEDDING_SIZE), np.float32))
    sink = Sink(output, "bench", MODEL_ID)
    sink.write(ShardVersion(shard, shard, number, "bench"), make_rows(samples, Answers(label_id, prob, embedding), labels), 0, True)
