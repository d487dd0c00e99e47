"""One shard against its table: does each sample have exactly one row?

In: a shard as the input lists it, its table as the output lists it. Out: a `Part`. The shard is read whole for its keys
and the digests of its images, the table for its rows. Runs in any process.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.formats.left_out import LeftOut
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.read import Inputs, group_of, shard_uri
from pipeline.store import storage
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import Replaced, describe_error
from pipeline.tables.layout import label_uri
from pipeline.tables.table_paths import table_path

MOST_PROBLEMS = 100  # of a shard that are told, a line each
_COLUMNS = ["shard", "index", "key", "sha256", "error"]

Samples = dict[int, tuple[str, str | None]]  # key and SHA-256 by index; None if nobody read the bytes


@dataclass(frozen=True)
class Job:
    """What is compared. `root`: of the shards' paths. `inputs`: as the labelling job had them."""

    root: str
    output: str
    model_id: str
    inputs: Inputs


@dataclass
class Part:
    """What the comparison of one shard found.

    `num_missing`: samples without a row. `num_double`: rows of a sample that has a row already. `num_foreign`: rows of
    no sample. `rejected`: rows by reason code. `problems`: a line each. `left_out`: members that have no row by their
    names. `digest`: SHA-256 over (shard, index, key, sha256, error) of the rows, in order. `is_of_listing`: the listed
    version of the shard was read.
    """

    shard: str
    num_samples: int = 0
    num_rows: int = 0
    num_missing: int = 0
    num_double: int = 0
    num_foreign: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    digest: str = ""
    is_of_listing: bool = True


def compare_shards(job: Job, shards: Sequence[tuple[dict[str, Any], str | None]]) -> list[Part]:
    """A part for each shard.

    Args:
        shards: rows of the listing of the input, each with the etag of the table; None: it has none.
    """
    return [compare_shard(job, listed, etag) for listed, etag in shards]


def compare_shard(job: Job, listed: dict[str, Any], etag: str | None) -> Part:
    """The part of one shard. Arguments as of `compare_shards`."""
    shard = listed["path"]
    part = Part(shard)
    try:
        samples = _read_samples(job, listed, part)
    except (ShardUnreadable, Replaced, OSError) as error:
        part.problems.append(f"unreadable: {shard}: {describe_error(error)}")
        return part
    part.num_samples = len(samples)
    if etag is None:
        part.num_missing = len(samples)
        part.problems.append(f"missing: {shard} has no table ({len(samples)} samples)")
        return part
    try:
        table = storage.read_bytes(label_uri(job.output, job.model_id, table_path(shard), etag))
        rows = read_table(table, _COLUMNS).to_pylist()
    except (pa.ArrowInvalid, KeyError) as error:
        part.num_missing = len(samples)
        part.problems.append(f"unreadable: {shard}.parquet: {describe_error(error)}")
        return part
    _compare_rows(samples, rows, part)
    if len(part.problems) > MOST_PROBLEMS:
        more = len(part.problems) - MOST_PROBLEMS
        part.problems[MOST_PROBLEMS:] = [f"and {more:,} more of {shard}"]
    return part


def _read_samples(job: Job, listed: dict[str, Any], part: Part) -> Samples:
    """The samples of a shard; what gives no sample is counted in `part.left_out`."""
    left_out = LeftOut()
    with job.inputs.open(shard_uri(job.root, listed), group_of(listed), left_out) as (opened, version):
        samples: Samples = {}
        for sample in opened:
            samples[sample.index] = sample.key, None if sample.error else hashlib.sha256(sample.encoded).hexdigest()
    part.is_of_listing = (version.size, version.etag) == (listed["size"], listed["etag"])
    part.left_out.add(left_out.rows(), listed["path"] + ": ")
    return samples


def _compare_rows(samples: Samples, rows: list[dict[str, Any]], part: Part) -> None:
    """Enter into `part` what is wrong with the rows of a shard, and their digest."""
    shard = part.shard
    part.num_rows = len(rows)
    num_rows_of: Counter[int] = Counter()
    for row in rows:
        index = row["index"]
        num_rows_of[index] += 1
        if row["shard"] != shard or samples.get(index) != (row["key"], row["sha256"]):
            part.num_foreign += 1
            part.problems.append(f"foreign: {shard}: row {index} {row['key']!r} is not that sample")
        elif num_rows_of[index] > 1:
            part.num_double += 1
            part.problems.append(f"double: {shard}: sample {index} {row['key']!r}")
        if row["error"]:
            part.rejected[row["error"]] += 1
    for index in sorted(samples.keys() - num_rows_of.keys()):
        part.num_missing += 1
        part.problems.append(f"missing: {shard}: sample {index} {samples[index][0]!r}")
    ordered = sorted(tuple(str(row[name]) if name != "index" else f"{row[name]:012}" for name in _COLUMNS)
                     for row in rows)
    part.digest = hashlib.sha256(repr(ordered).encode()).hexdigest()
