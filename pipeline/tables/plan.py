"""What is in the input, what is done, what is pending: pure functions over listings.

In: tables of `FILES` (`listing`) of the input and of the output, and the finished files that the ledger or their own
footers tell of. Out: the shards to label.
A shard is done if the output has its file, and that file (size, etag) is known to come from this version (size,
etag) of the shard. All other shards are pending.
Not here: reading the store.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.stream import BLOCK_BYTES
from pipeline.tables.table_paths import shard_of, table_paths

FINISHED = pa.schema([  # a file of the output holds the rows of one version of its shard
    ("file", pa.string()),  # relative to labels/model=<model_id>/
    ("file_size", pa.int64()),
    ("file_etag", pa.string()),
    ("source_size", pa.int64()),
    ("source_etag", pa.string()),
])
_FILE, _FINISHED_FILE = ["path", "size", "etag"], ["file", "file_size", "file_etag"]


@dataclass(frozen=True)
class Plan:
    """What a run has to do. All but `num_done` are tables of `FILES`.

    `pending`: the shards to label, in order of their paths. `num_done`: number of shards that need nothing.
    `orphans`: files of the output whose shard is no longer in the input. `misplaced`: files at places where no table
    lies any more (`table_paths`); older versions of this program put them there. `num_beyond`: number of shards that
    a limit left out.
    """

    pending: pa.Table
    num_done: int
    orphans: pa.Table
    misplaced: pa.Table
    num_beyond: int = 0


def find_change(inputs: pa.Table, versions: pa.Table, finished: pa.Table,
                snapshot: pa.Table) -> tuple[pa.Table, pa.Table]:
    """What the log of a lake table lacks before a run labels anything, and what must leave it.

    Args:
        inputs, finished: as of `make_plan`.
        versions: `FILES`, all versions of the tables that there are.
        snapshot: `FILES`, the versions that count.

    Returns:
        `FILES`: of shards whose present version has a table that the log does not know, one table each. `FILES`: of the
        snapshot, the tables of shards that are no longer in the input.
    """
    expected = inputs.select(_FILE).append_column("file", table_paths(inputs["path"]))
    present = finished.join(versions, _FINISHED_FILE, _FILE, "left semi")
    right = present.join(expected, ["file", "source_size", "source_etag"], ["file", "size", "etag"], "left semi")
    settled = right.join(snapshot, _FINISHED_FILE, _FILE, "left semi")
    missing = right.join(settled, "file", join_type="left anti").select(_FINISHED_FILE).rename_columns(_FILE)
    missing = missing.sort_by([("path", "ascending"), ("etag", "ascending")])
    first = missing.group_by("path", use_threads=False).aggregate([("size", "first"), ("etag", "first")])
    return first.rename_columns(_FILE), snapshot.join(expected, "path", "file", "left anti")


def find_unrecorded(outputs: pa.Table, ledger: pa.Table) -> pa.Table:
    """The files of the output that the ledger does not know as they are now. Their footers must be read."""
    return outputs.join(ledger, _FILE, _FINISHED_FILE, "left anti")


def make_plan(inputs: pa.Table, outputs: pa.Table, finished: pa.Table) -> Plan:
    """Compare the input with the output.

    Args:
        inputs: the shards, `path` relative to the input. Columns that `FILES` lacks come back in `pending`.
        outputs: the files under `labels/model=<model_id>/`, `path` relative to that folder.
        finished: `FINISHED`, of files present or past. Rows for files that are gone or replaced do not count.
    """
    present = finished.join(outputs, _FINISHED_FILE, _FILE, "left semi")
    expected = inputs.select(_FILE).append_column("file", table_paths(inputs["path"]))
    to_label = expected.join(present, ["file", "size", "etag"], ["file", "source_size", "source_etag"], "left anti")
    orphans = outputs.join(expected, "path", "file", "left anti")
    pending = inputs.filter(pc.is_in(inputs["path"], to_label["path"].combine_chunks()))  # a join cannot carry lists
    misplaced = pa.array([shard_of(path) is None for path in orphans["path"].to_pylist()], pa.bool_())
    return Plan(pending.sort_by("path"), len(inputs) - len(to_label),
                orphans.filter(pc.invert(misplaced)).sort_by("path"), orphans.filter(misplaced).sort_by("path"))


def count_requests(pending: pa.Table) -> tuple[int, int]:
    """About how many requests it takes to read the pending shards, and to write their tables.

    A shard is asked for its version, and read in blocks; a loose image likewise. A table is put, and looked at.
    Without what a run costs as a whole: listings, the lease, the ledger, the report.
    """
    sizes = pending["size"].to_numpy()
    if "members" in pending.column_names:
        sizes = pc.list_flatten(pending["members"]).combine_chunks().field("size").to_numpy()
    return int(len(sizes) + np.ceil(sizes / BLOCK_BYTES).sum()), 2 * len(pending)


def limit_plan(plan: Plan, paths: pa.ChunkedArray, limit: int) -> Plan:
    """The plan for `limit` of the shards: those whose paths have the smallest SHA-256, so always the same ones.

    Args:
        paths: of all shards of the input.
    """
    names: list[str] = paths.to_pylist()
    chosen = sorted(names, key=lambda path: hashlib.sha256(path.encode()).digest())[:limit]
    pending = plan.pending.filter(pc.is_in(plan.pending["path"], pa.array(chosen, pa.string())))
    return replace(plan, pending=pending, num_done=len(chosen) - len(pending), num_beyond=len(names) - len(chosen))
