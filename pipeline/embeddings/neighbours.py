"""The images most like one image, by the cosine of their embeddings: from the index where there is one.

In: an output with an index; an image of the tables by its key or SHA-256, or any embedding. Out: the nearest rows.
Tables that the index does not know are compared row by row, so the answer is never older than the tables.
Not here: how the index is made (`index.py`); the same answer in SQL, for outputs without an index
(`sql/duckdb/neighbours.sql`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.embeddings.index import ROW_COLUMNS, Index, Segment, index_folder, read_index
from pipeline.embeddings.stream import embeddings_of, open_table
from pipeline.embeddings.tables import Table, Tables
from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.read_parquet import read_table
from pipeline.tables import label_tables
from pipeline.tables.label_files import read_footers
from pipeline.tables.table_paths import table_path

LEAST_PROBES, SHARE_OF_LISTS = 64, 0.2  # lists of a search: so many, or this share of them
NEIGHBOURS = pa.schema([("shard", pa.string()), ("index", pa.int32()), ("key", pa.string()), ("label", pa.string()),
                        ("cosine", pa.float64())])


@dataclass(frozen=True)
class Asked:
    """What is asked about: an embedding, float32 [1536]; and its image if that is in the tables."""

    embedding_D: np.ndarray[Any, Any]
    shard: str | None = None
    index: int | None = None


class Neighbours:
    """An index that is open for questions. Opening it lists the tables, and reads the files that are not at hand.

    `num_known`: rows of the index that are still in the tables. `unknown`: the tables that the index does not know.
    """

    def __init__(self, output: str, model_id: str, index: Index) -> None:
        self.output, self.model_id, self.index = output, model_id, index
        self.folder = index_folder(output, model_id)
        files = label_tables.list_labels(output, model_id)
        present = list(zip(files["path"].to_pylist(), files["etag"].to_pylist(), strict=True))
        known = {(table.path, table.etag) for segment in index.segments for table in segment.tables}
        is_unknown = pa.array([version not in known for version in present], pa.bool_())
        footers = read_footers(output, model_id, files.filter(is_unknown)).to_pylist()
        self.unknown = Tables(output, model_id, [
            Table(row["file"], 0, row["num_images"], row["file_size"], row["file_etag"]) for row in footers])
        self.segments = [OpenSegment(self.folder, segment, {*present}) for segment in index.segments]
        self.num_known = sum(segment.num_alive for segment in self.segments)

    @property
    def num_unknown(self) -> int:
        """Rows of the tables that the index does not know."""
        return sum(table.num_rows for table in self.unknown.tables)

    def find_image(self, key: str | None, sha256: str | None, shard: str | None) -> Asked:
        """The image that a question is about: the first one, by shard and index.

        Raises:
            UserError: no image has this key or digest, and an embedding.
        """
        if key is None and sha256 is None:
            raise UserError("the query needs the setting key, sha256 or image.")
        column, value = ("key", key) if key is not None else ("sha256", sha256)
        places: list[tuple[str, int, OpenSegment | None, int]] = []
        for segment in (*self.segments, None):
            rows = self._unknown_rows if segment is None else segment.rows
            for row in pc.indices_nonzero(pc.equal(rows[column], value)).to_pylist():
                if (segment is None or segment.alive_N[row]) and rows["label"][row].is_valid:
                    places.append((rows["shard"][row].as_py(), rows["index"][row].as_py(), segment, row))
        places = [place for place in places if shard in (None, place[0])]
        if not places:
            where = f" in shard {shard}" if shard else ""
            raise UserError(f"the query knows no image {value}{where} that has an embedding.")
        first, index, segment, row = min(places, key=lambda place: place[:2])
        return Asked(self._read_embedding(first, index) if segment is None else segment.vector(row), first, index)

    def answer(self, settings: Mapping[str, str], *, exact: bool = False) -> pa.Table:
        """The answer to the query neighbours: shard, key, label, cosine.

        Args:
            settings: of the query, as text: `key`, `sha256` or `embedding`; `shard`, `number`.

        Raises:
            UserError: no image is asked about, or one that has no embedding; or `number` is no number.
        """
        number = settings.get("number", "10")
        if not number.isascii() or not number.isdigit():
            raise UserError(f"--set number={number}: it takes a whole number.")
        if "embedding" in settings:
            asked = Asked(np.array(json.loads(settings["embedding"]), np.float32))
        else:
            asked = self.find_image(settings.get("key"), settings.get("sha256"), settings.get("shard"))
        return self.find(asked, int(number), exact=exact).drop_columns("index")

    def find(self, asked: Asked, number: int, *, exact: bool = False) -> pa.Table:
        """The nearest rows but the asked one, as `NEIGHBOURS`, the nearest first.

        Args:
            exact: compare with every row of the index.
        """
        query_D = asked.embedding_D / max(float(np.linalg.norm(asked.embedding_D)), 1e-12)
        lists = self.index.num_pivots
        probes = lists if exact else max(LEAST_PROBES, math.ceil(SHARE_OF_LISTS * lists))
        parts = [segment.find(query_D, number + 1, probes) for segment in self.segments]
        parts += [self._compare(table, query_D, number + 1) for table in self.unknown.tables]
        rows = pa.concat_tables([NEIGHBOURS.empty_table(), *parts])
        is_asked = pc.and_(pc.equal(rows["shard"], asked.shard or ""), pc.equal(rows["index"], asked.index or 0))
        rows = rows.filter(pc.invert(is_asked)) if asked.shard is not None else rows
        order = [("cosine", "descending"), ("shard", "ascending"), ("index", "ascending")]
        return rows.sort_by(order).slice(0, number)

    @cached_property
    def _unknown_rows(self) -> pa.Table:
        """The rows of the tables that the index does not know."""
        parts = [self._read_rows(table) for table in self.unknown.tables]
        return pa.concat_tables(parts) if parts else pa.table({name: pa.array([], pa.string()) for name in ROW_COLUMNS})

    def _read_rows(self, table: Table) -> pa.Table:
        with open_table(self.unknown.open_uri(table)) as opened:
            return opened.file.read(ROW_COLUMNS, use_threads=False).select(ROW_COLUMNS)

    def _read_embedding(self, shard: str, index: int) -> np.ndarray[Any, Any]:
        table = next(table for table in self.unknown.tables if table.path == table_path(shard))
        with open_table(self.unknown.open_uri(table)) as opened:
            for batch in opened.batches(["index", "embedding"]):
                found = batch.filter(pc.equal(batch["index"], index))
                if len(found):
                    embedding_D: np.ndarray[Any, Any] = embeddings_of(found["embedding"])[0]
                    return embedding_D
        raise UserError(f"image {index} of {shard} is no longer in the tables.")

    def _compare(self, table: Table, query_D: np.ndarray[Any, Any], number: int) -> pa.Table:
        """The nearest rows of a table that the index does not know."""
        parts = [vector_ND @ query_D for _, vector_ND in self.unknown.unit_vectors(table)]
        rows = self._read_rows(table)
        rows = rows.filter(pc.is_valid(rows["label"]))
        cosine_N = np.concatenate([np.empty(0, np.float32), *parts])
        return _take(rows, np.argsort(-cosine_N, kind="stable")[:number], np.sort(-cosine_N)[:number] * -1)


class OpenSegment:
    """A segment that is open for questions.

    Args:
        present: path and version of the tables that are there now.
    """

    def __init__(self, folder: str, segment: Segment, present: set[tuple[str, str]]) -> None:
        self.inverted = faiss.read_index(str(local_file(folder, segment.name + ".faiss")), faiss.IO_FLAG_MMAP)
        self.rows = read_table(local_file(folder, segment.name + ".parquet").read_bytes())
        alive_N = np.zeros(segment.num_rows, bool)
        for table in segment.tables:
            if (table.path, table.etag) in present:
                alive_N[table.first:table.first + table.num_rows] = True
        self.alive_N, self.num_alive = alive_N, int(alive_N.sum())
        self.bits = np.packbits(alive_N, bitorder="little")
        self.has_places = False  # whether `inverted` knows the place of each row

    def vector(self, row: int) -> np.ndarray[Any, Any]:
        """The embedding of a row at length 1, in half precision, float32 [1536]."""
        if not self.has_places:
            self.inverted.set_direct_map_type(faiss.DirectMap.Hashtable)
            self.has_places = True
        vector_D: np.ndarray[Any, Any] = self.inverted.reconstruct(row)
        return vector_D

    def find(self, query_D: np.ndarray[Any, Any], number: int, probes: int) -> pa.Table:
        """The nearest rows, as `NEIGHBOURS`."""
        chosen = faiss.IDSelectorBitmap(self.bits) if self.num_alive < len(self.rows) else None
        settings = faiss.SearchParametersIVF(sel=chosen, nprobe=min(probes, self.inverted.nlist))
        cosine_1K, row_1K = self.inverted.search(query_D[None].astype(np.float32), number, params=settings)
        is_found = row_1K[0] >= 0
        return _take(self.rows, row_1K[0][is_found], cosine_1K[0][is_found])


def _take(rows: pa.Table, at: np.ndarray[Any, Any], cosine: np.ndarray[Any, Any]) -> pa.Table:
    taken = rows.take(pa.array(at, pa.int64()))
    cosines = pa.array(np.round(cosine.astype(np.float64), 4), pa.float64())
    return pa.table([*(taken[name] for name in NEIGHBOURS.names[:-1]), cosines], schema=NEIGHBOURS)


def open_neighbours(output: str, model_id: str) -> Neighbours | None:
    """The index of an output, open for questions; None if there is none."""
    index = read_index(index_folder(output, model_id))
    return None if index is None else Neighbours(output, model_id, index)


def local_file(folder: str, name: str) -> Path:
    """A file of the index on the local disk. That of a store is fetched once: a segment never changes."""
    if "://" not in folder:
        return Path(folder, name)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "label-pipeline" / "index"
    path = cache / name
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(storage.read_bytes(storage.join(folder, name)))
        part.replace(path)
    return path
