"""The log of a Delta table, by `deltalake`.

In: the folder of a table. Out: the files of its newest version; a commit of that version.
"""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from pipeline.store.retry import with_retries
from pipeline.store.s3.connect import is_s3
from pipeline.store.s3.places import find_options
from pipeline.tables.lake.log import Conflict, Entry

Result = TypeVar("Result")


class DeltaLog:
    """The log as it is now.

    Args:
        schema: of a table that is created if there is none; None: creates nothing.

    Raises:
        FileNotFoundError: there is no log.
    """

    def __init__(self, folder: str, schema: pa.Schema | None) -> None:
        self.schema = schema
        options = find_storage_options(folder)

        def open_table() -> DeltaTable:
            return DeltaTable(folder, storage_options=options)

        try:
            self.table = _call(open_table)
        except TableNotFoundError as error:
            if schema is None:
                raise FileNotFoundError(str(error)) from None
            with suppress(CommitFailedError):  # another run has created it, or the reply was lost
                _call(lambda: DeltaTable.create(folder, schema, mode="ignore", storage_options=options,
                                                commit_properties=CommitProperties(max_commit_retries=0)))
            self.table = _call(open_table)

    def list_files(self) -> list[Entry]:
        """The files that count."""
        actions: Any = pa.table(_call(lambda: self.table.get_add_actions(flatten=True)))
        columns = [actions[name].to_pylist() for name in ("path", "size_bytes", "num_records")]
        return [Entry(*row) for row in zip(*columns, strict=True)]

    def commit(self, add: list[Entry], remove: list[Entry], run_id: str) -> None:
        """Commit a change of this version of the table.

        Raises:
            Conflict: there is a newer version.
        """
        now_ms = int(time.time() * 1000)
        actions: list[Any] = [AddAction(entry.path, entry.size, {}, now_ms, True, _describe(entry)) for entry in add]
        actions += [RemoveAction(path=entry.path, data_change=True, deletion_timestamp=now_ms, size=entry.size,
                                 partition_values={}) for entry in remove]
        properties = CommitProperties(custom_metadata={"run_id": run_id}, max_commit_retries=0)
        try:
            self.table.create_write_transaction(actions, "append", self.schema or self.table.schema(),
                                                commit_properties=properties)
        except (DeltaError, OSError) as error:  # the log may have this commit, or that of another run
            raise Conflict(str(error)) from error

    def vacuum(self, days: float, dry_run: bool) -> list[str]:
        """Remove the files that no version of the last `days` has; return their paths."""
        return _call(lambda: self.table.vacuum(round(days * 24), dry_run, enforce_retention_duration=False, full=True))


def _describe(entry: Entry) -> str:
    """The statistics of a file, as JSON."""
    return json.dumps({} if entry.num_rows is None else {"numRecords": entry.num_rows})


def find_storage_options(uri: str) -> dict[str, str]:
    """How `deltalake` reaches a store as the job does: it knows the AWS variables, but not all that botocore knows."""
    if not is_s3(uri):
        return {}
    import botocore.session
    options = find_options(uri.split("/")[2])
    profile = options.get("profile")
    client = botocore.session.Session(profile=profile).create_client("s3", endpoint_url=options.get("endpoint_url"))
    found = {"max_retries": "1", "retry_timeout": "20s"} | ({"aws_profile": profile} if profile else {})
    if client.meta.region_name != "aws-global":
        found["aws_region"] = client.meta.region_name
    if not re.search(r"\.amazonaws\.com(\.cn)?(:\d+)?/?$", client.meta.endpoint_url):
        found |= {"aws_endpoint": client.meta.endpoint_url, "aws_allow_http": "true"}
    return found


def _call(call: Callable[[], Result]) -> Result:
    """What `call` returns; repeated as each call to the store is."""
    def translated() -> Result:
        try:
            return call()
        except (TableNotFoundError, CommitFailedError, PermissionError):
            raise
        except (DeltaError, OSError) as error:  # of the store, without a number
            raise OSError(errno.EIO, f"deltalake: {error}") from error

    return with_retries(translated)
