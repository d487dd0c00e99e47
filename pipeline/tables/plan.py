"""What is in the input, what is done, what is pending: pure functions over listings.

In: tables of `FILES` (`listing`) of the input and of the output, and what is known of finished files (from the ledger, or
from their footers). Out: the shards to label.
Not here: reading the store. Done means: the output has the shard's file, and that very file (size, etag) is known to
come from this very version (size, etag) of the shard. Everything else is pending.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.tables.table_paths import shard_of, table_paths

FINISHED = pa.schema([  # that a file of the output holds the rows of one version of its shard
    ("file", pa.string()),  # relative to labels/model=<model_id>/
    ("file_size", pa.int64()),
    ("file_etag", pa.string()),
    ("source_size", pa.int64()),
    ("source_etag", pa.string()),
])
_FILE, _OF = ["path", "size", "etag"], ["file", "file_size", "file_etag"]


@dataclass(frozen=True)
class Plan:
    """`pending`: the shards to label, in order of their paths. `num_done`: those that need nothing.

    `orphans`: files of the output whose shard is no longer in the input. `misplaced`: files where no shard's table lies
    (`table_paths`): those of before such places were left free. All three are tables of `FILES`.
    """

    pending: pa.Table
    num_done: int
    orphans: pa.Table
    misplaced: pa.Table


def find_unrecorded(outputs: pa.Table, ledger: pa.Table) -> pa.Table:
    """The files of the output that the ledger does not know as they are now: their footers must be read."""
    return outputs.join(ledger, _FILE, _OF, "left anti")


def make_plan(inputs: pa.Table, outputs: pa.Table, finished: pa.Table) -> Plan:
    """What is to be done.

    Args:
        inputs: the shards, `path` relative to the input; other columns than those of `FILES` come back in `pending`.
        outputs: the files under `labels/model=<model_id>/`, `path` relative to it.
        finished: `FINISHED`, of files present or past; entries for files that are gone or replaced do not count.
    """
    present = finished.join(outputs, _OF, _FILE, "left semi")
    wanted = inputs.select(_FILE).append_column("file", table_paths(inputs["path"]))
    pending = wanted.join(present, ["file", "size", "etag"], ["file", "source_size", "source_etag"], "left anti")
    orphans = outputs.join(wanted, "path", "file", "left anti")
    chosen = inputs.filter(pc.is_in(inputs["path"], pending["path"].combine_chunks()))  # a join takes no lists along
    misplaced = pa.array([shard_of(path) is None for path in orphans["path"].to_pylist()], pa.bool_())
    return Plan(chosen.sort_by("path"), len(inputs) - len(pending), orphans.filter(pc.invert(misplaced)).sort_by("path"),
                orphans.filter(misplaced).sort_by("path"))
