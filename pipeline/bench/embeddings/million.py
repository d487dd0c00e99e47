"""Benchmark part `embeddings`: an index and its answers, near-duplicates, and a relabelling, over made-up rows.

The rows lie around 20,000 centres in 64 dimensions, which are spread over the 1,536 of an embedding: real embeddings
have few dimensions too. One row in a hundred has a near copy. Reads come from the page cache.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.bench.measure import Part, Setting
from pipeline.embeddings.index import index_folder, update_index
from pipeline.embeddings.near_duplicates import find_near_duplicates
from pipeline.embeddings.neighbours import Asked, open_neighbours
from pipeline.embeddings.relabel.tables import Head, Job, relabel_tables
from pipeline.embeddings.tables import list_tables
from pipeline.model.spec import EMBEDDING_SIZE, NUM_IMAGENET_CLASSES
from pipeline.stages.sink import Sink
from pipeline.tables import label_tables, ledger
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.tables.ledger_rows import RUNS, SHARDS

NUM_ROWS, TABLE_ROWS = 10**6, 10_000
CENTRES, DIMENSIONS, SPREAD = 20_000, 64, 0.6
COPIES, COPY_NOISE = 0.01, 0.05  # share of rows that are a copy of the row before; the cosine is about 0.998
THRESHOLD, QUESTIONS = 0.7, 200
MODEL_ID, NEW_MODEL_ID = "inception_v4-00000000", "inception_v4-00000001"
LABELS = pa.array([f"class {number}" for number in range(NUM_IMAGENET_CLASSES)])


def measure(setting: Setting) -> Part:
    """Seconds and rates, `neighbours_recall` (at 10), `near_duplicates_recall` and `_precision`, and
    `neighbours_exact_over_sql`: how many times as fast the exact answer of the index is as SQL without one."""
    output = os.path.join(setting.folder, "vectors")
    write_tables(output, range(NUM_ROWS // TABLE_ROWS))
    figures: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = call()
        figures[name] = time.perf_counter() - begun
        return result

    folder = index_folder(output, MODEL_ID)
    figures["sql_s"] = median(_ask_sql(output) for _ in range(setting.repeats))
    done = timed("build_s", lambda: update_index(list_tables(output, MODEL_ID), folder, lambda: None))
    figures["index_bytes_a_row"] = done.num_bytes / NUM_ROWS
    asking = timed("open_s", lambda: open_neighbours(output, MODEL_ID))
    assert asking is not None
    quick, exact, hits = [], [], []
    for number in range(QUESTIONS):
        row = number * (NUM_ROWS // QUESTIONS) + 3
        begun = time.perf_counter()
        asked = asking.find_image(f"image-{row:07}", None, None)
        found = asking.find(asked, 10).to_pylist()
        quick.append(time.perf_counter() - begun)
        if number < 40:
            begun = time.perf_counter()
            right = asking.find(Asked(asked.embedding_D, asked.shard, asked.index), 10, exact=True).to_pylist()
            exact.append(time.perf_counter() - begun)
            least = right[-1]["cosine"] - 1e-4
            hits.append(sum(row["cosine"] >= least for row in found) / 10)
    figures |= {"question_ms": 1000 * median(quick), "question_slowest_ms": 1000 * max(quick),
                "exact_s": median(exact)}
    write_tables(output, range(1), seed=1)  # one table of a hundred is changed
    changed = timed("update_1_percent_s", lambda: update_index(list_tables(output, MODEL_ID), folder, lambda: None))
    figures["update_rows"] = changed.num_new
    write_tables(output, range(1))
    pool = ThreadPoolExecutor(os.cpu_count())
    pairs = timed("near_duplicates_s", lambda: find_near_duplicates(
        list_tables(output, MODEL_ID), THRESHOLD, os.path.join(setting.folder, "lists"), pool.map))
    planted = {number for number in range(1, NUM_ROWS) if _is_copy(number)}
    groups: dict[int, list[int]] = {}
    for group, key in zip(pairs["group"].to_pylist(), pairs["key"].to_pylist(), strict=True):
        groups.setdefault(group, []).append(int(key.removeprefix("image-")))
    right_groups = sum(sorted(rows)[1:] == [sorted(rows)[0] + 1] and sorted(rows)[1] in planted
                       for rows in groups.values())
    figures["relabel_rows_per_s"] = NUM_ROWS / _relabel(output)
    figures["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    ratios = {"neighbours_recall": float(np.mean(hits)), "near_duplicates_recall": right_groups / len(planted),
              "near_duplicates_precision": right_groups / max(1, len(groups)),
              "neighbours_exact_over_sql": figures["sql_s"] / figures["exact_s"]}
    shutil.rmtree(output)
    print(f"\nembeddings, {NUM_ROWS:,} rows")
    for name, value in (figures | ratios).items():
        print(f"  {name:28} {value:12,.3f}")
    return Part(ratios, {"embeddings": figures})


def write_tables(output: str, numbers: range, seed: int = 0) -> None:
    """Write some of the tables, and the files of the ledger that SQL reads. Another seed gives other rows."""
    rng = np.random.default_rng(0)
    centre_CK = rng.standard_normal((CENTRES, DIMENSIONS), np.float32)
    spread_KD = rng.standard_normal((DIMENSIONS, EMBEDDING_SIZE), np.float32)
    for name, schema in (("runs", RUNS), ("shards", SHARDS)):
        ledger.write(output, name, "bench", [{"run_id": "bench", "model_id": MODEL_ID}], schema)
    ledger.write(output, "classes", MODEL_ID, [], pa.schema([("label_id", pa.int16())]))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda number: _write_table(output, number, seed, centre_CK, spread_KD), numbers))


def _write_table(output: str, number: int, seed: int, centre_CK: np.ndarray[Any, Any],
                 spread_KD: np.ndarray[Any, Any]) -> None:
    rng, indices, shard = np.random.default_rng((seed, number)), np.arange(TABLE_ROWS), f"shard-{number:04}.tar"
    point_NK = centre_CK[rng.integers(0, CENTRES, TABLE_ROWS)]
    point_NK = point_NK + SPREAD * rng.standard_normal(point_NK.shape, np.float32)
    embedding_ND = point_NK @ spread_KD + rng.standard_normal((TABLE_ROWS, EMBEDDING_SIZE), np.float32)
    copies = np.array([index for index in indices[1:] if _is_copy(number * TABLE_ROWS + index)])
    noise = COPY_NOISE * embedding_ND[copies].std() * rng.standard_normal((len(copies), EMBEDDING_SIZE), np.float32)
    embedding_ND[copies] = embedding_ND[copies - 1] + noise
    ids = [f"image-{number * TABLE_ROWS + index:07}" for index in indices]
    samples = pa.table([[shard] * TABLE_ROWS, indices, ids, [500] * TABLE_ROWS, [375] * TABLE_ROWS,
                        [f"{image_id:0>64}" for image_id in ids], [None] * TABLE_ROWS], schema=SAMPLES)
    answers = Answers(np.zeros((TABLE_ROWS, 5), np.int16), np.ones((TABLE_ROWS, 5), np.float32), embedding_ND)
    rows = make_rows(samples, answers, LABELS)
    Sink(output, "bench", MODEL_ID).write(ShardVersion(shard, shard, TABLE_ROWS, f"bench-{seed}"), rows, 0, True)


def _is_copy(row: int) -> bool:
    """Whether a row is a near copy of the row before it."""
    return row % TABLE_ROWS > 0 and row % round(1 / COPIES) == 7


def _ask_sql(output: str) -> float:
    from pipeline.ask.query import ask, connect

    begun = time.perf_counter()
    ask(connect(output), "neighbours", {"key": "image-0000007"}).fetchall()
    return time.perf_counter() - begun


def _relabel(output: str) -> float:
    """Seconds of a relabelling with a head of a thousand classes."""
    head = Head(torch.randn(NUM_IMAGENET_CLASSES, EMBEDDING_SIZE) / 40, torch.zeros(NUM_IMAGENET_CLASSES), LABELS)
    files = label_tables.list_labels(output, MODEL_ID)
    begun = time.perf_counter()
    for done in relabel_tables(Job(output, "bench", MODEL_ID, NEW_MODEL_ID, "parquet", files), head):
        assert done.counts is not None, done.row.failure
    return time.perf_counter() - begun
