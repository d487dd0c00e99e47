"""Tables of a lake without a run, and their versions as other programs read them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.stages.sink import Sink
from pipeline.store.versions import File
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.tables.lake import log
from pipeline.tables.layout import Kind

MODEL = "inception_v4-00000001"
SCHEMA = log.table_schema(())


def put(table: log.LakeTable, shard: str, number: int, *, version: int = 0, run_id: str = "20260101T000000-aaaaaa",
        root: str = "s3://in", size: int = 10240, etag: str | None = None) -> File:
    """A table of `number` rows, of which the first is rejected. No log knows it. `version`: of the shard."""
    rng = np.random.default_rng([version, number])
    samples = pa.table([[shard] * number, range(number), [f"k{i} v{version}" for i in range(number)], [9] * number,
                        [9] * number, [f"{i:064}" for i in range(number)],
                        ["truncated"] * min(1, number) + [None] * (number - 1)], schema=SAMPLES)
    answers = Answers(np.zeros((number, 5), np.int16), np.ones((number, 5), np.float32),
                      rng.standard_normal((number, EMBEDDING_SIZE), dtype=np.float32))
    source = ShardVersion(shard, f"{root}/{shard}", size, etag or f"e{version}")
    file = Sink(table.output, run_id, table.model_id, table=table.kind).write(
        source, make_rows(samples, answers, pa.array(["cat"])), 0, True)
    assert file is not None
    return file


def change(files: Mapping[File, int], gone: tuple[str, ...] = ()) -> log.Change:
    """A change by files, each with its number of rows."""
    rows = [{"path": file.path, "size": file.size, "etag": file.etag, "num_images": number}
            for file, number in files.items()]
    return log.Change(pa.Table.from_pylist(rows, log.LISTED), [*gone])


def commit(table: log.LakeTable, files: Mapping[File, int], gone: tuple[str, ...] = (), run_id: str = "r") -> bool:
    """Commit a change."""
    return log.commit(table, change(files, gone), SCHEMA, run_id)


def listed(table: log.LakeTable) -> dict[str, str]:
    """The etag of each table that counts, by path."""
    files = log.list_snapshot(table)
    return dict(zip(files["path"].to_pylist(), files["etag"].to_pylist(), strict=True))


def read_versions(table: log.LakeTable, columns: tuple[str, ...] = ("shard", "index", "key")) -> list[pa.Table]:
    """The rows of each version of a table, the oldest first, as the library of its kind reads them for anybody."""
    if table.kind == "delta":
        from deltalake import DeltaTable
        newest = DeltaTable(table.folder).version()
        return [DeltaTable(table.folder, version=version).to_pyarrow_table(columns=[*columns])
                for version in range(1, newest + 1)]  # version 0 has no file: it made the table
    opened = open_iceberg(table)
    return [opened.scan(snapshot_id=snapshot.snapshot_id, selected_fields=columns).to_arrow()
            for snapshot in opened.snapshots()]


def open_iceberg(table: log.LakeTable) -> Any:
    """The table as anybody opens it, who knows its catalog."""
    from pyiceberg.catalog import load_catalog
    catalog = load_catalog("labels", type="sql", uri=f"sqlite:///{table.output}/iceberg/catalog.db")
    return catalog.load_table(("labels", table.model_id))


def lake_at(folder: Path, kind: Kind) -> log.LakeTable:
    """The table of a model in an output that has nothing yet."""
    return log.LakeTable(str(folder / "out"), MODEL, kind)
