"""The log of an Iceberg table, by `pyiceberg`.

In: the table of a model. Out: the files of its newest snapshot; a commit of that snapshot.
Which metadata file is the newest is known by a catalog alone. It is the one that pyiceberg's own configuration names
`labels` (the variables PYICEBERG_CATALOG__LABELS__… or a `.pyiceberg.yaml`). Without such a one, an output on a local
disk has a catalog of its own: `<output>/iceberg/catalog.db`, of SQLite.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    CommitStateUnknownException,
    NoSuchNamespaceError,
    NoSuchTableError,
    ServerError,
    ServiceUnavailableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.typedef import Record
from pyiceberg.utils.config import Config as Settings
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.listing import list_input
from pipeline.store.retry import with_retries
from pipeline.tables.label_files import READS_AT_ONCE
from pipeline.tables.lake.log import Conflict, Entry
from pipeline.tables.layout import tables_folder
from pipeline.tables.table_paths import SUFFIX

Result = TypeVar("Result")

CATALOG = "labels"
_PROPERTIES = {"py-io-impl": "pipeline.tables.lake.iceberg_files.StoreFiles"}
_BOUNDED = ("shard", "index", "key", "label_id", "prob")  # columns whose bounds a snapshot knows
_METRICS = {"write.metadata.metrics.default": "none", "commit.retry.num-retries": "0",
            "write.metadata.delete-after-commit.enabled": "true", "write.metadata.previous-versions-max": "100",
            **{f"write.metadata.metrics.column.{name}": "full" for name in _BOUNDED}}
_BUSY = (OperationalError, IntegrityError, ServerError, ServiceUnavailableError)  # the same call may succeed later
_STALE = (CommitFailedException, CommitStateUnknownException, ValidationException)


class IcebergLog:
    """The log as it is now.

    Args:
        schema: of a table that is created if there is none; None: creates nothing.

    Raises:
        FileNotFoundError: there is no table.
        UserError: there is no catalog, or it has another table of this name.
    """

    def __init__(self, output: str, model_id: str, folder: str, schema: pa.Schema | None) -> None:
        self.folder = folder
        catalog = open_catalog(output)
        name = (catalog.properties.get("namespace", CATALOG), model_id)
        try:
            self.table = _call(lambda: catalog.load_table(name))
        except (NoSuchTableError, NoSuchNamespaceError) as error:
            if schema is None:
                raise FileNotFoundError(str(error)) from None
            _call(lambda: catalog.create_namespace_if_not_exists(name[0]))
            self.table = _call(lambda: _create(catalog, name, schema, folder))
        if self.table.location().removeprefix("file://") != folder:
            raise UserError(f"--output {output}: the Iceberg catalog {CATALOG} has a table {'.'.join(name)} already, "
                            f"in {self.table.location()}; set PYICEBERG_CATALOG__LABELS__NAMESPACE to another name.")

    def list_files(self) -> list[Entry]:
        """The files that count."""
        snapshot = self.table.current_snapshot()
        if snapshot is None:
            return []
        before = self.folder + "/"
        return [Entry(entry.data_file.file_path.removeprefix(before), entry.data_file.file_size_in_bytes,
                      entry.data_file.record_count)
                for manifest in snapshot.manifests(self.table.io)
                for entry in manifest.fetch_manifest_entry(self.table.io, discard_deleted=True)]

    def commit(self, add: list[Entry], remove: list[Entry], run_id: str) -> None:
        """Commit a change of this snapshot.

        Raises:
            Conflict: there is a newer snapshot.
        """
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            new = list(pool.map(self._describe, add))
        try:
            with (self.table.transaction() as transaction,
                  transaction.update_snapshot(snapshot_properties={"run_id": run_id}).overwrite() as snapshot):
                for file in new:
                    snapshot.append_data_file(file)
                for entry in remove:
                    snapshot.delete_data_file(self._name(entry))
        except (*_STALE, *_BUSY) as error:
            raise Conflict(str(error)) from error

    def vacuum(self, days: float, dry_run: bool) -> list[str]:
        """Forget all snapshots older than `days` but the newest, and remove the files that no other snapshot has;
        return their paths.
        """
        before_s = time.time() - days * 86400
        kept: list[Any] = []
        gone: list[Any] = []
        for snapshot in self.table.snapshots():
            is_old = snapshot.timestamp_ms < before_s * 1000 and snapshot != self.table.current_snapshot()
            (gone if is_old else kept).append(snapshot)
        if gone and not dry_run:
            self.table.maintenance.expire_snapshots().by_ids([snapshot.snapshot_id for snapshot in gone]).commit()
        io = self.table.io
        manifests = {manifest.manifest_path: manifest for snapshot in kept for manifest in snapshot.manifests(io)}
        used = {*manifests, *(snapshot.manifest_list for snapshot in kept)}
        used |= {entry.data_file.file_path for manifest in manifests.values()
                 for entry in manifest.fetch_manifest_entry(io, discard_deleted=True)}
        files = list_input(self.folder)
        unused = [path for path, changed_s in zip(files["path"].to_pylist(), files["changed"].to_pylist(), strict=True)
                  if path.endswith((SUFFIX, ".avro")) and changed_s < before_s
                  and storage.join(self.folder, path) not in used]
        if not dry_run:
            with ThreadPoolExecutor(READS_AT_ONCE) as pool:
                list(pool.map(lambda path: storage.remove(storage.join(self.folder, path)), unused))
        return unused

    def _describe(self, entry: Entry) -> DataFile:
        """A file with the counts and bounds of its columns, from its footer."""
        return with_retries(lambda: parquet_file_to_data_file(self.table.io, self.table.metadata,
                                                              storage.join(self.folder, entry.path)))

    def _name(self, entry: Entry) -> DataFile:
        file = DataFile.from_args(
            content=DataFileContent.DATA, file_path=storage.join(self.folder, entry.path),
            file_format=FileFormat.PARQUET, partition=Record(), record_count=entry.num_rows,
            file_size_in_bytes=entry.size)
        file.spec_id = self.table.metadata.default_spec_id
        return file


def drop_table(output: str, model_id: str) -> None:
    """Remove a table from its catalog. No error if the catalog has none."""
    catalog = open_catalog(output)
    with suppress(NoSuchTableError, NoSuchNamespaceError):
        catalog.drop_table((catalog.properties.get("namespace", CATALOG), model_id))


def _create(catalog: Catalog, name: tuple[str, str], schema: pa.Schema, folder: str) -> Any:
    try:
        return catalog.create_table(name, schema, location=folder, properties=_METRICS)
    except TableAlreadyExistsError:  # another run has created it, or the reply was lost
        return catalog.load_table(name)


def find_catalog(output: str) -> dict[str, Any]:
    """The properties of the catalog of an output.

    Raises:
        UserError: none is configured, and the output is not on a local disk.
    """
    configured = Settings().get_catalog_config(CATALOG)
    if configured is not None:
        return {**configured, **_PROPERTIES}
    if "://" in output:
        raise UserError(f"--table iceberg: set PYICEBERG_CATALOG__LABELS__URI to a catalog for {output}: https://… of "
                        "a REST catalog, or postgresql://… with PYICEBERG_CATALOG__LABELS__TYPE=sql.")
    folder = tables_folder(output, "iceberg")
    return {"type": "sql", "uri": f"sqlite:///{os.path.join(folder, 'catalog.db')}", **_PROPERTIES}


def open_catalog(output: str) -> Catalog:
    """The catalog of an output."""
    logging.getLogger("pyiceberg.io.pyarrow").setLevel(logging.ERROR)  # it warns of each column without statistics
    properties = find_catalog(output)
    if str(properties.get("uri", "")).startswith("sqlite:////") and "://" not in output:
        os.makedirs(tables_folder(output, "iceberg"), exist_ok=True)
    return _call(lambda: load_catalog(CATALOG, **properties))


def _call(call: Callable[[], Result]) -> Result:
    """What `call` of the catalog returns; repeated as each call to the store is."""
    def translated() -> Result:
        try:
            return call()
        except _BUSY as error:
            raise OSError(errno.EIO, f"the Iceberg catalog {CATALOG}: {error}") from error
        except SQLAlchemyError as error:
            raise OSError(f"the Iceberg catalog {CATALOG}: {error}") from error

    return with_retries(translated)
