"""An index over the embeddings of a model: the files, and how they are kept up night by night.

In: an output. Out: `index/<model_id>/` in it: `index.json` names segments and the versions of the tables they were made
of; a segment is an inverted file of faiss over half-precision vectors of length 1, and a Parquet file of its rows.
A segment never changes. New and changed tables make new segments, tables that are gone are passed over by searches, and
many small segments become one. Whoever finds another version of a table than `index.json` names knows that the index is
behind (`neighbours.py`).
Why faiss, and these settings: docs/performance.md has the figures.
"""

from __future__ import annotations

import io
import json
import math
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.embeddings.stream import embeddings_of, open_table, to_unit
from pipeline.embeddings.tables import Table, Tables, split_tables
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.store import storage
from pipeline.store.listing import list_files
from pipeline.tables.layout import is_in_lake

FORMAT = 1  # change it whenever older files cannot be read
ROWS_OF_LIST = 500  # on average; pivots are made anew once there are four times as many
SEGMENT_ROWS = 250_000  # 770 MB
MOST_SMALL = 8  # small segments that are kept apart
SMALL = SEGMENT_ROWS // 2  # rows of a small segment
DEAD = 0.2  # of the rows of a segment: it is made anew
SAMPLES_OF_LIST = 40  # from which k-means makes pivots
ROW_COLUMNS = ["shard", "index", "key", "sha256", "label"]


@dataclass(frozen=True)
class Segment:
    """A segment. `tables`: those it was made of; `first` is the number of their first row in the segment."""

    name: str
    tables: list[Table]

    @property
    def num_rows(self) -> int:
        """Rows of the segment, with those of rejected images, which no search finds."""
        return sum(table.num_rows for table in self.tables)


@dataclass(frozen=True)
class Index:
    """What `index.json` says. `num_pivots`: lists of each segment."""

    num_pivots: int
    segments: list[Segment]


@dataclass(frozen=True)
class Update:
    """What an update did. `num_rows`: of the index. `num_new`: rows that were read. `num_bytes`: of the files."""

    num_rows: int
    num_new: int
    num_segments: int
    num_bytes: int


def index_folder(output: str, model_id: str) -> str:
    """Where the index of a model is."""
    return storage.join(output, "index", model_id)


def read_index(folder: str) -> Index | None:
    """The index as it stands; None if there is none that can be used."""
    try:
        data = json.loads(storage.read_bytes(storage.join(folder, "index.json")))
        if data["format"] != FORMAT:
            return None
        return Index(data["num_pivots"], [Segment(one["name"], [Table(**table) for table in one["tables"]])
                                          for one in data["segments"]])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def update_index(tables: Tables, folder: str, check: Callable[[], None]) -> Update:
    """Bring the index up to date with the tables. The caller holds a lease.

    Args:
        check: called before each segment; an error of it ends the update, and the index stays as it was.
    """
    stored = before = read_index(folder)
    if before is None or tables.num_rows > 4 * ROWS_OF_LIST * before.num_pivots:
        before = Index(max(1, math.ceil(tables.num_rows / ROWS_OF_LIST)), [])
        storage.put_whole(storage.join(folder, "pivots.npy"), _to_bytes(make_pivots(tables, before.num_pivots)))
    kept = choose_kept(before, tables)
    known = {(table.path, table.etag) for segment in kept for table in segment.tables}
    new = [table for table in tables.tables if (table.path, table.etag) not in known]
    segments = [*kept]
    if new:
        pivot_CD = np.load(io.BytesIO(storage.read_bytes(storage.join(folder, "pivots.npy"))))
        for some in split_tables(new, SEGMENT_ROWS):
            check()
            segments.append(write_segment(tables, some, pivot_CD, folder))
    if stored is None or segments != before.segments:
        check()
        text = json.dumps({"format": FORMAT, "num_pivots": before.num_pivots,
                           "segments": [asdict(segment) for segment in segments]})
        storage.put_whole(storage.join(folder, "index.json"), text.encode())
    used = {segment.name for segment in (*segments, *before.segments)}  # a reader may still have the old ones open
    ours = {segment.name for segment in segments}
    num_bytes = 0
    files = list_files(folder)
    for path, size in zip(files["path"].to_pylist(), files["size"].to_pylist(), strict=True):
        name = path.rpartition(".")[0]
        if path.startswith("segment-") and name not in used:
            storage.remove(storage.join(folder, path))
        elif name in ours:
            num_bytes += size
    return Update(sum(segment.num_rows for segment in segments), sum(table.num_rows for table in new), len(segments),
                  num_bytes)


def choose_kept(index: Index, tables: Tables) -> list[Segment]:
    """The segments that stay: those of few dead rows, and of small ones no more than `MOST_SMALL`."""
    alive = {(table.path, table.etag) for table in tables.tables}

    def num_alive(segment: Segment) -> int:
        return sum(table.num_rows for table in segment.tables if (table.path, table.etag) in alive)

    kept = [segment for segment in index.segments if num_alive(segment) >= (1 - DEAD) * segment.num_rows > 0]
    small = [segment for segment in kept if segment.num_rows < SMALL]
    return kept if len(small) < MOST_SMALL else [segment for segment in kept if segment.num_rows >= SMALL]


def make_pivots(tables: Tables, number: int) -> np.ndarray[Any, Any]:
    """The centres of the lists, float32 [C, 1536] of length 1, by spherical k-means over a sample of the rows.

    The sample is of some tables, spread over all.
    """
    rng = np.random.default_rng(0)
    wanted = SAMPLES_OF_LIST * number
    share = min(1.0, 4 * wanted / max(1, tables.num_rows))  # a quarter of the rows of enough tables
    step = max(1, int(share * len(tables.tables)))
    chosen = [tables.tables[at] for at in np.unique(np.linspace(0, len(tables.tables) - 1, step).astype(int))]
    keep = min(1.0, wanted / max(1, sum(table.num_rows for table in chosen)))
    sample = [vector_ND[rng.random(len(vector_ND)) < keep] for table in chosen
              for _, vector_ND in tables.unit_vectors(table)]
    sample_ND = np.concatenate([np.empty((0, EMBEDDING_SIZE), np.float32), *sample])
    if len(sample_ND) <= number:
        return sample_ND if len(sample_ND) else np.eye(1, EMBEDDING_SIZE, dtype=np.float32)
    means = faiss.Kmeans(EMBEDDING_SIZE, number, niter=8, spherical=True, seed=1, min_points_per_centroid=1)
    means.train(sample_ND)
    pivot_CD: np.ndarray[Any, Any] = means.centroids
    return pivot_CD


def write_segment(tables: Tables, some: list[Table], pivot_CD: np.ndarray[Any, Any], folder: str) -> Segment:
    """Make a segment of some tables."""
    lists = faiss.IndexFlatIP(EMBEDDING_SIZE)
    lists.add(pivot_CD)
    inverted = faiss.IndexIVFScalarQuantizer(lists, EMBEDDING_SIZE, len(pivot_CD), faiss.ScalarQuantizer.QT_fp16,
                                             faiss.METRIC_INNER_PRODUCT, False)
    inverted.train(pivot_CD)  # half precision learns nothing
    placed, rows, first = [], [], 0
    for table in some:
        with open_table(tables.open_uri(table)) as opened:
            etag = table.etag if is_in_lake(table.etag) else opened.version.etag
            placed.append(Table(table.path, first, opened.num_rows, opened.version.size, etag))
            for batch in opened.batches([*ROW_COLUMNS, "embedding"]):
                is_there = batch["embedding"].is_valid().to_numpy()
                vector_ND = to_unit(embeddings_of(batch["embedding"])[is_there])
                if len(vector_ND):
                    inverted.add_with_ids(vector_ND, first + np.flatnonzero(is_there))
                rows.append(batch.select(ROW_COLUMNS))
                first += batch.num_rows
    name = f"segment-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
    storage.put_whole(storage.join(folder, name + ".faiss"), faiss.serialize_index(inverted).tobytes())
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(rows), buffer, compression="zstd")
    storage.put_whole(storage.join(folder, name + ".parquet"), buffer.getvalue())
    return Segment(name, placed)


def _to_bytes(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
