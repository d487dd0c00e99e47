"""What is in the input, what is done, what is pending: pure functions over listings.

In: files of the input and of the output as the store lists them, and what is known of finished files (from the ledger,
or from their footers). Out: the shards to label.
Not here: reading the store. Done means: the output has the shard's file, and that very file (size, etag) is known to
come from this very version (size, etag) of the shard. Everything else is pending.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.shards import SHARD_NAME
from pipeline.storage import File


@dataclass(frozen=True)
class Finished:
    """That file `file` holds the rows of the version `size`, `etag` of its shard."""

    file: File
    size: int
    etag: str


@dataclass(frozen=True)
class Plan:
    """`pending`: the shards to label, in order of their paths. `num_done`: those that need nothing.

    `orphans`: files of the output whose shard is no longer in the input.
    """

    pending: list[File]
    num_done: int
    orphans: list[File]


def shards(files: Iterable[File]) -> list[File]:
    """The tar shards among the input's files, in order of their paths."""
    return sorted((file for file in files if SHARD_NAME.search(file.path)), key=lambda file: file.path)


def unknown(outputs: Iterable[File], ledger: Iterable[Finished]) -> list[File]:
    """The files of the output that the ledger does not know as they are now: their footers must be read."""
    known = {finished.file for finished in ledger}
    return [file for file in outputs if file not in known]


def plan(inputs: Iterable[File], outputs: Iterable[File], finished: Iterable[Finished]) -> Plan:
    """What is to be done.

    Args:
        inputs: the shards, `path` relative to the input.
        outputs: the files under `labels/model=<model_id>/`, `path` relative to it.
        finished: what is known of files, present or past; entries for files that are gone or replaced do not count.
    """
    present = {file.path: file for file in outputs}
    version_of = {entry.file: (entry.size, entry.etag) for entry in finished}
    pending, num_done = [], 0
    for shard in inputs:
        file = present.pop(shard.path + ".parquet", None)
        if file is not None and version_of.get(file) == (shard.size, shard.etag):
            num_done += 1
        else:
            pending.append(shard)
    return Plan(pending, num_done, sorted(present.values(), key=lambda file: file.path))
