"""The log of a lake table: which files count, as of its newest snapshot; and one commit that brings it up to date.

In: the table of a model. Out: `FILES`; a commit. Delta and Iceberg have a module each (`delta`, `iceberg`), with a
class that opens the log as it is now, lists its files and commits a change of that very snapshot.
A commit says which files the table shall have, not what to do. So it is computed anew from the log after a conflict or
a lost reply, and adds nothing twice.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.store.listing import FILES
from pipeline.tables.label_files import file_schema
from pipeline.tables.layout import Kind, data_path, labels_folder, split_data_path

TRIES = 20  # of a commit that others forestall, with up to a second between two
LISTED = pa.schema([*FILES, ("num_images", pa.int64())])
_PLAIN_URI = re.compile(r"[A-Za-z0-9_./:@+=-]*")
_PACKAGES = {"delta": "deltalake", "iceberg": "pyiceberg"}


class Conflict(Exception):
    """The log has got another snapshot since it was opened, or may have got ours."""


@dataclass(frozen=True)
class LakeTable:
    """The table of a model in an output."""

    output: str
    model_id: str
    kind: Kind

    @property
    def folder(self) -> str:
        """Where the files and the log are."""
        return labels_folder(self.output, self.model_id, self.kind)


@dataclass(frozen=True)
class Entry:
    """A file of a snapshot. `path`: relative to the folder of the table. `size`: bytes. `num_rows`: None if unknown."""

    path: str
    size: int
    num_rows: int | None


@dataclass(frozen=True)
class Change:
    """What a table shall have.

    `files`: of `LISTED`, the versions that count from now on, one for each table; they replace other versions of these
    tables. `gone`: paths of tables that leave.
    """

    files: pa.Table
    gone: list[str]


def check_lake(config: Config) -> None:
    """Check that the tables of a run can be those of a lake.

    Raises:
        UserError: the package is missing, readers would misread the output's path, or there is no catalog.
    """
    if config.table == "parquet":
        return
    _check_installed(config.table)
    if not _PLAIN_URI.fullmatch(config.output):
        raise UserError(f"--table {config.table}: some readers cannot open a table in {config.output}; a path of "
                        "letters, digits and any of _ - . = + @ can be read by all.")
    if config.table == "iceberg":
        from pipeline.tables.lake.iceberg import find_catalog
        find_catalog(config.output)


def _check_installed(kind: Kind) -> None:
    if find_spec(_PACKAGES[kind]) is None:
        raise UserError(f"--table {kind} needs the package {_PACKAGES[kind]}: pip install 'label-pipeline[{kind}]'.")


def open_log(table: LakeTable, schema: pa.Schema | None = None) -> Any:
    """The log as it is now, a `DeltaLog` or an `IcebergLog`.

    Args:
        schema: of a table that is created if there is none; None: creates nothing.

    Raises:
        FileNotFoundError: there is no log.
        UserError: the package is missing.
    """
    _check_installed(table.kind)
    if table.kind == "delta":
        from pipeline.tables.lake.delta import DeltaLog
        return DeltaLog(table.folder, schema)
    from pipeline.tables.lake.iceberg import IcebergLog
    return IcebergLog(table.output, table.model_id, table.folder, schema)


def list_snapshot(table: LakeTable) -> pa.Table:
    """The files that count, as a table of `FILES` by the paths of their tables; none if there is no log yet.

    Raises:
        UserError: the table has files that the job did not write.
    """
    try:
        return _name_entries(open_log(table).list_files(), table)
    except FileNotFoundError:
        return FILES.empty_table()


def _name_entries(entries: list[Entry], table: LakeTable) -> pa.Table:
    listed = pa.table({"path": pa.array([entry.path for entry in entries], pa.string()),
                       "size": pa.array([entry.size for entry in entries], pa.int64()),
                       "etag": pa.nulls(len(entries), pa.string())})
    named = name_tables(listed, table.kind)
    if len(named) != len(entries):
        foreign = next(entry.path for entry in entries if split_data_path(entry.path) is None)
        raise UserError(f"the {table.kind} table in {table.folder} has files that this job did not write, such as "
                        f"{foreign}; restore an earlier version of the table.")
    return named


def name_tables(files: pa.Table, kind: Kind) -> pa.Table:
    """`FILES` of a lake table, with the path and the version of the table that each file is. Other files have no row.
    """
    rows = [(*named, size) for path, size in zip(files["path"].to_pylist(), files["size"].to_pylist(), strict=True)
            if (named := split_data_path(path)) is not None]
    return pa.table({"path": [path for path, _, _ in rows], "size": [size for _, _, size in rows],
                     "etag": [f"{kind}:{digest}" for _, digest, _ in rows]}, schema=FILES)


def table_schema(keep: Any) -> pa.Schema:
    """The columns of a lake table, whatever the embeddings of a run are: a file without them has nulls."""
    return file_schema("float32", keep, lake=True)


def drop(table: LakeTable) -> None:
    """Forget a table, where a catalog knows it. Its files are still there. No error if nobody knows it."""
    if table.kind == "iceberg":
        from pipeline.tables.lake.iceberg import drop_table
        drop_table(table.output, table.model_id)


def commit(table: LakeTable, change: Change, schema: pa.Schema | None, run_id: str) -> bool:
    """Bring the log up to date in one snapshot, which carries the run's id.

    Args:
        schema: of a table that is created if there is none; None: there is one.

    Returns:
        Whether the log needed a commit.

    Raises:
        OSError: others change the log all the time, or the store cannot be reached.
    """
    columns = (change.files[name].to_pylist() for name in LISTED.names)
    wanted = {path: Entry(data_path(path, etag.partition(":")[2]), size, num_rows)
              for path, size, etag, num_rows in zip(*columns, strict=True)}
    reason = ""
    for _ in range(TRIES):
        try:
            log = open_log(table, schema)
            add, remove = _compare(log.list_files(), wanted, change.gone)
            if not add and not remove:
                return False
            log.commit(add, remove, run_id)
        except Conflict as conflict:
            reason = str(conflict)
            time.sleep(random.uniform(0, 1))
            continue
        return True
    raise OSError(f"the log of {table.folder} was changed by others {TRIES} times while this run was to commit: "
                  f"{reason}")


def _compare(entries: Iterable[Entry], wanted: dict[str, Entry], gone: list[str]) -> tuple[list[Entry], list[Entry]]:
    """The entries that a snapshot lacks, and those that must leave it."""
    left, missing, remove = {*gone}, dict(wanted), []
    for entry in entries:
        named = split_data_path(entry.path)
        path = named[0] if named else ""
        if path in wanted and wanted[path].path == entry.path:
            missing.pop(path, None)
        elif path in wanted or path in left:
            remove.append(entry)
    return list(missing.values()), remove
