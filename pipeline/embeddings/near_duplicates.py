"""Groups of images whose embeddings are nearly the same, over all tables of a model.

In: the tables; a threshold of the cosine. Out: a table of `NEAR_DUPLICATES`.
Embeddings are whitened first (`whitening.py`). A row is not compared with all others, which would cost the square of
the rows: it goes to the lists of its `LISTS_OF_ROW` nearest pivots, and rows are compared within a list. Two vectors
that are nearly the same have a pivot in common, but for few pairs (docs/performance.md has the share).
The lists go through the store, in pieces, so that memory holds one partition of them at a time, and any machine of a
cluster can compare a partition. Method: inverted lists of Jégou et al. 2011 (PAMI 33:1).
Not here: the page with pictures (`near_duplicates_run.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.embeddings.tables import Table, Tables, split_tables
from pipeline.embeddings.whitening import Whitening, learn_whitening
from pipeline.store import storage
from pipeline.store.listing import list_files

Array = np.ndarray[Any, Any]
Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]  # as the built-in map, on several processors

NEAR_DUPLICATES = pa.schema([
    ("group", pa.int64()),     # images that are alike, directly or through others of the group; from 0
    ("shard", pa.string()),
    ("index", pa.int32()),
    ("key", pa.string()),
    ("sha256", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("cosine", pa.float32()),  # of the whitened embeddings, with the most similar other image of the group
    ("keep", pa.bool_()),      # of each group one: the one of most pixels, of several the first
])
ROWS_OF_LIST = 500  # on average
LISTS_OF_ROW = 2
ROUNDS = 4  # of k-means
TASK_ROWS = 400_000  # of the tables of one task: 220 MB of records
PARTITION_BYTES = 2**28
CHUNK_CELLS = 2**22  # of a matrix of cosines
DEGENERATE = 4 * ROWS_OF_LIST  # a list of more rows may hold many equal vectors


@dataclass(frozen=True)
class Lists:
    """The lists of a search. `folder`: a URI that is the search's own. `pivot_CK`: their centres, float32 [C, K]."""

    folder: str
    num_partitions: int
    whitening: Whitening
    pivot_CK: Array

    @property
    def record(self) -> np.dtype[Any]:
        """The type of a row in a list."""
        return np.dtype([("list", "<i4"), ("row", "<i8"), ("vector", "<f2", (self.pivot_CK.shape[1],))])

    def place(self, partition: int) -> str:
        """The folder of the pieces of a partition."""
        return storage.join(self.folder, f"{partition:05}")


def find_near_duplicates(tables: Tables, threshold: float, folder: str, run: Map = map) -> pa.Table:
    """The groups of rows with a chain of cosines of at least `threshold`, as `NEAR_DUPLICATES`.

    Args:
        folder: of the store, for the lists; it is removed at the end.
        run: runs tasks, some at once; each needs about 1 GB.
    """
    whitening, sample_NK = learn_whitening(tables)
    lists = Lists(folder, 1, whitening, choose_pivots(sample_NK, math.ceil(tables.num_rows / ROWS_OF_LIST)))
    num_bytes = tables.num_rows * min(LISTS_OF_ROW, len(lists.pivot_CK)) * lists.record.itemsize
    lists = replace(lists, num_partitions=math.ceil(num_bytes / PARTITION_BYTES))
    best = np.full(tables.num_rows, -1, np.float32)
    edges: list[Array] = []
    try:
        for _ in run(partial(fill_lists, tables, lists), list(split_tables(tables.tables, TASK_ROWS))):
            pass
        for pairs, row_N, cosine_N in run(partial(compare_partition, lists, threshold), range(lists.num_partitions)):
            edges.append(pairs)
            np.maximum.at(best, row_N, cosine_N)
    finally:
        storage.remove(folder)
    return _describe(tables, np.concatenate([np.empty((0, 2), np.int64), *edges]), best)


def choose_pivots(sample_NK: Array, number: int) -> Array:
    """Up to so many centres of vectors, float32 [C, K] of length 1, by k-means."""
    if number <= 1 or not len(sample_NK):
        return np.zeros((1, sample_NK.shape[1]), np.float32)
    pivot_CK = sample_NK[np.random.default_rng(0).permutation(len(sample_NK))[:number]]
    for _ in range(ROUNDS):
        nearest_N = assign(sample_NK, pivot_CK, 1)[:, 0]
        sums_CK = np.zeros_like(pivot_CK)
        np.add.at(sums_CK, nearest_N, sample_NK)
        length_C = np.linalg.norm(sums_CK, axis=1, keepdims=True)
        pivot_CK = np.where(length_C > 0, sums_CK / np.maximum(length_C, 1e-12), pivot_CK)
    return pivot_CK


def assign(vector_NK: Array, pivot_CK: Array, number: int) -> Array:
    """The nearest pivots of each vector, int32 [N, number]."""
    number = min(number, len(pivot_CK))
    parts = [np.argpartition(-(chunk_MK @ pivot_CK.T), number - 1, axis=1)[:, :number].astype(np.int32)
             for chunk_MK in _chunks(vector_NK, len(pivot_CK))]
    return np.concatenate([np.empty((0, number), np.int32), *parts])


def fill_lists(tables: Tables, lists: Lists, some: list[Table]) -> None:
    """Put the rows of some tables into their lists: a piece for each partition that gets any."""
    records = []
    for table in some:
        for row_N, vector_NK in lists.whitening.of_table(tables, table):
            for list_N in assign(vector_NK, lists.pivot_CK, LISTS_OF_ROW).T:
                record_N = np.empty(len(row_N), lists.record)
                record_N["list"], record_N["row"], record_N["vector"] = list_N, row_N, vector_NK
                records.append(record_N)
    whole_N = np.concatenate([np.empty(0, lists.record), *records])
    partition_N = whole_N["list"] % lists.num_partitions
    for partition in np.unique(partition_N):
        piece = whole_N[partition_N == partition]
        storage.put_whole(storage.join(lists.place(partition), f"{some[0].first:012}.bin"), piece.tobytes())


def compare_partition(lists: Lists, threshold: float, partition: int) -> tuple[Array, Array, Array]:
    """Compare the rows of each list of a partition.

    Returns:
        Pairs of rows that hold each group together, int64 [E, 2]; and rows, int64 [N], each with the largest cosine
        to another row, float32 [N], where that is at least `threshold`.
    """
    try:
        names = sorted(list_files(lists.place(partition))["path"].to_pylist())
    except FileNotFoundError:  # no row went there
        names = []
    pieces = [np.frombuffer(storage.read_bytes(storage.join(lists.place(partition), name)), lists.record)
              for name in names]
    records = np.concatenate([np.empty(0, lists.record), *pieces])
    records = records[np.argsort(records["list"], kind="stable")]
    starts = np.flatnonzero(np.diff(records["list"], prepend=-1)).tolist()
    pairs, rows, cosines = [np.empty((0, 2), np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
    for start, stop in pairwise([*starts, len(records)]):
        row_N = records["row"][start:stop]
        edges, best_N = compare_vectors(records["vector"][start:stop], threshold)
        near_N = best_N >= threshold
        pairs.append(row_N[edges])
        rows.append(row_N[near_N])
        cosines.append(best_N[near_N])
    return np.concatenate(pairs), np.concatenate(rows), np.concatenate(cosines)


def compare_vectors(vector_NK: Array, threshold: float) -> tuple[Array, Array]:
    """Compare each of N vectors of length 1 with each other one.

    Returns:
        Edges that join the vectors of each group, int64 [E, 2], E < N; and the largest cosine of each vector to another
        one, float32 [N].
    """
    number = len(vector_NK)
    if number > DEGENERATE:  # such as many white images: equal vectors are compared once
        bytes_N = np.ascontiguousarray(vector_NK).view(np.dtype((np.void, vector_NK.shape[1] * vector_NK.itemsize)))
        _, first, inverse = np.unique(bytes_N.ravel(), return_index=True, return_inverse=True)
        if len(first) < number:
            edges, best_N = compare_vectors(vector_NK[first], threshold)
            best_N = np.where(np.bincount(inverse) > 1, np.float32(1), best_N)[inverse]
            twins = np.column_stack((first[inverse], np.arange(number)))
            return np.concatenate((first[edges], twins[twins[:, 0] != twins[:, 1]])), best_N
    vector_NK = vector_NK.astype(np.float32)
    best_N = np.full(number, -1, np.float32)
    group_N = np.arange(number)
    at = 0
    for chunk_MK in _chunks(vector_NK, number):
        cosine_MN = chunk_MK @ vector_NK.T
        here = np.arange(len(chunk_MK))
        cosine_MN[here, at + here] = -1
        best_N[at:at + len(chunk_MK)] = cosine_MN.max(axis=1)
        left, right = np.nonzero(cosine_MN >= threshold)
        if len(left):
            group_N = _join(number, np.concatenate((np.column_stack((np.arange(number), group_N)),
                                                    np.column_stack((at + left, right)))))
        at += len(chunk_MK)
    edges = np.column_stack((group_N, np.arange(number)))
    return edges[edges[:, 0] != edges[:, 1]], np.minimum(best_N, 1)


def _join(number: int, edges: Array) -> Array:
    """For each of so many nodes, the first node of its connected component, int64 [number]."""
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), (number, number))
    component_N = connected_components(graph, directed=False)[1]
    _, first = np.unique(component_N, return_index=True)
    firsts: Array = first[component_N]
    return firsts


def _chunks(vector_NK: Array, width: int) -> Iterator[Array]:
    """Some vectors at a time: a matrix of them and `width` others has at most `CHUNK_CELLS` cells."""
    step = max(1, CHUNK_CELLS // max(1, width))
    for start in range(0, len(vector_NK), step):
        yield vector_NK[start:start + step]


def _describe(tables: Tables, edges: Array, best: Array) -> pa.Table:
    """The groups as `NEAR_DUPLICATES`, the group of the first row first."""
    first_N = _join(tables.num_rows, edges)
    sizes = np.bincount(first_N, minlength=tables.num_rows)
    row_N = np.flatnonzero(sizes[first_N] > 1)
    if not len(row_N):
        return NEAR_DUPLICATES.empty_table()
    group_N = np.unique(first_N[row_N], return_inverse=True)[1]
    found = tables.take(row_N, ["shard", "index", "key", "sha256", "width", "height"])
    pixels_N = found["width"].to_numpy().astype(np.int64) * found["height"].to_numpy()
    order = np.lexsort((row_N, -pixels_N, group_N))
    keep_N = np.zeros(len(row_N), bool)
    keep_N[order[np.flatnonzero(np.diff(group_N[order], prepend=-1))]] = True
    rows = pa.table([group_N, *found.columns, best[row_N], keep_N], schema=NEAR_DUPLICATES)
    return rows.sort_by([("group", "ascending"), ("shard", "ascending"), ("index", "ascending")])
