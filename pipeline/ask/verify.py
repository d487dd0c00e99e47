"""Proof that every sample of the input has exactly one row.

In: the shards of the input, and the labels tables. Out: a `Proof`: counts, a digest, and a list of problems.
Both sides are read whole: the shards for their keys and the digests of their images, the tables for their rows.
Neither Ray nor torch is needed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.config import check_uri
from pipeline.formats.left_out import LeftOut
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.find import find_shards
from pipeline.inputs.read import Inputs, group_of, shard_uri
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import Replaced, describe_error
from pipeline.store.uris import canonical_uri
from pipeline.tables import label_tables
from pipeline.tables.layout import label_uri
from pipeline.tables.owner.models import only_model
from pipeline.tables.table_paths import table_path

SHARDS_AT_ONCE = 4
_COLUMNS = ["shard", "index", "key", "sha256", "error"]

Samples = dict[int, tuple[str, str | None]]  # key and SHA-256 by index; None if nobody read the bytes


@dataclass
class Proof:
    """What a comparison of input and output found.

    `num_missing`: samples without a row. `num_double`: rows of a sample that has a row already. `num_foreign`: rows
    and tables of no sample. `rejected`: rows by reason code. `problems`: a line each. `left_out`: files and members
    of the input that have no row by their names. `digest`: SHA-256 over (shard, index, key, sha256, error) of all
    rows, in order.
    """

    model_id: str
    num_shards: int = 0
    num_samples: int = 0
    num_rows: int = 0
    num_missing: int = 0
    num_double: int = 0
    num_foreign: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    digest: str = ""


def verify(input_uri: str, output_uri: str, model_id: str | None, inputs: Inputs, format: str = "auto") -> Proof:
    """Compare each shard with its table.

    Args:
        model_id: None: the only model of the output.
        inputs, format: as the job had them.

    Raises:
        UserError: a side cannot be listed, or the output has several models and none is named.
    """
    check_uri("input", input_uri)
    check_uri("output", output_uri)
    input_uri, output_uri = canonical_uri(input_uri), canonical_uri(output_uri)
    proof = Proof(model_id or only_model(output_uri))
    with explaining_errors("--input", input_uri):
        shards, proof.left_out, root = find_shards(input_uri, format, output=output_uri)
    listed = label_tables.list_labels(output_uri, proof.model_id)
    tables = dict(zip(listed["path"].to_pylist(), listed["etag"].to_pylist(), strict=True))
    digest = hashlib.sha256()
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        parts = pool.map(lambda shard: _compare(root, output_uri, proof.model_id, shard, tables, inputs),
                         shards.to_pylist())
        for part in parts:
            proof.num_samples += part.num_samples
            proof.num_rows += part.num_rows
            proof.num_missing += part.num_missing
            proof.num_double += part.num_double
            proof.num_foreign += part.num_foreign
            proof.rejected += part.rejected
            proof.problems += part.problems
            proof.left_out.add(part.left_out.rows())
            digest.update(part.digest.encode())
    proof.num_shards = len(shards)
    for path in sorted(tables.keys() - set(map(table_path, shards["path"].to_pylist()))):
        proof.num_foreign += 1
        proof.problems.append(f"foreign: {path} is of no shard of the input")
    proof.digest = digest.hexdigest()
    return proof


def _compare(input_uri: str, output_uri: str, model_id: str, listed: dict[str, Any], tables: dict[str, str],
             inputs: Inputs) -> Proof:
    """The proof of one shard. `listed`: its row among the shards. `tables`: etags of the tables of the output, by path.
    """
    part, shard = Proof(model_id), listed["path"]
    try:
        samples = _read_samples(input_uri, listed, inputs, part)
    except (ShardUnreadable, Replaced, OSError) as error:
        part.problems.append(f"unreadable: {shard}: {describe_error(error)}")
        return part
    part.num_samples = len(samples)
    path = table_path(shard)
    if path not in tables:
        part.num_missing = len(samples)
        part.problems.append(f"missing: {shard} has no table ({len(samples)} samples)")
        return part
    try:
        table = storage.read_bytes(label_uri(output_uri, model_id, path, tables[path]))
        rows = read_table(table, _COLUMNS).to_pylist()
    except (pa.ArrowInvalid, KeyError) as error:
        part.num_missing = len(samples)
        part.problems.append(f"unreadable: {shard}.parquet: {describe_error(error)}")
        return part
    _compare_rows(shard, samples, rows, part)
    return part


def _read_samples(input_uri: str, listed: dict[str, Any], inputs: Inputs, part: Proof) -> Samples:
    """The samples of a shard; what gives no sample is counted in `part.left_out`."""
    left_out = LeftOut()
    with inputs.open(shard_uri(input_uri, listed), group_of(listed), left_out) as (opened, _):
        samples: Samples = {}
        for sample in opened:
            samples[sample.index] = sample.key, None if sample.error else hashlib.sha256(sample.encoded).hexdigest()
    part.left_out.add(left_out.rows(), listed["path"] + ": ")
    return samples


def _compare_rows(shard: str, samples: Samples, rows: list[dict[str, Any]], part: Proof) -> None:
    """Enter into `part` what is wrong with the rows of a shard, and their digest."""
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
