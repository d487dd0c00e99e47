"""Proof that every sample of the input has exactly one row.

In: the input's shards and the labels tables. Out: a `Proof`: counts, a digest, and a list of what is wrong.
Both sides are read whole: the shards for their keys and the digests of their images, the tables for their rows. Needs
neither Ray nor torch.
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
from pipeline.formats.tar import ShardUnreadable
from pipeline.inputs.find import Inputs, find_shards
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import Replaced, describe_error
from pipeline.store.uris import canonical_uri
from pipeline.tables import ledger
from pipeline.tables.output import labels_uri, only_model
from pipeline.tables.table_paths import table_path

_COLUMNS = ["shard", "index", "key", "sha256", "error"]


@dataclass
class Proof:
    """`problems`: a line each. `left_out`: what of the input has no row, by its name. `digest`: SHA-256 over (shard, index, key, sha256, error) of all rows, in order."""

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
    """Compare each shard with its table. `inputs` and `format` as the job had them.

    Raises:
        UserError: a side cannot be listed, or the output has several models and none is named.
    """
    check_uri("input", input_uri)
    check_uri("output", output_uri)
    input_uri, output_uri = canonical_uri(input_uri), canonical_uri(output_uri)
    proof = Proof(model_id or only_model(output_uri))
    with explaining_errors("--input", input_uri):
        found, proof.left_out = find_shards(input_uri, format, output=output_uri)
    tables = set(ledger.list_labels(output_uri, proof.model_id)["path"].to_pylist())
    digest = hashlib.sha256()
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda shard: _compare(input_uri, output_uri, proof.model_id, shard, tables, inputs),
                           found.to_pylist())
        for part in results:
            for name in ("num_samples", "num_rows", "num_missing", "num_double", "num_foreign"):
                setattr(proof, name, getattr(proof, name) + getattr(part, name))
            proof.rejected += part.rejected
            proof.problems += part.problems
            proof.left_out.add(part.left_out.rows())
            digest.update(part.digest.encode())
    proof.num_shards = len(found)
    for path in sorted(tables - set(map(table_path, found["path"].to_pylist()))):
        proof.num_foreign += 1
        proof.problems.append(f"foreign: {path} is of no shard of the input")
    proof.digest = digest.hexdigest()
    return proof


def _compare(input_uri: str, output_uri: str, model_id: str, listed: dict[str, Any], tables: set[str],
             inputs: Inputs) -> Proof:
    part, shard = Proof(model_id), listed["path"]
    try:
        left_out = LeftOut()
        with inputs.open(storage.child(input_uri, shard), listed if "members" in listed else None, left_out) as (found, _):
            samples = {sample.index: (sample.key, hashlib.sha256(sample.encoded).hexdigest() if not sample.error else
                                      None) for sample in found}
        part.left_out.add(left_out.rows(), shard + ": ")
    except (ShardUnreadable, Replaced, OSError) as error:
        part.problems.append(f"unreadable: {shard}: {describe_error(error)}")
        return part
    part.num_samples = len(samples)
    if table_path(shard) not in tables:
        part.num_missing = len(samples)
        part.problems.append(f"missing: {shard} has no table ({len(samples)} samples)")
        return part
    uri = labels_uri(output_uri, model_id, shard)
    try:
        rows = read_table(storage.read_bytes(uri), _COLUMNS).to_pylist()
    except (pa.ArrowInvalid, KeyError) as error:
        part.num_missing = len(samples)
        part.problems.append(f"unreadable: {shard}.parquet: {describe_error(error)}")
        return part
    part.num_rows = len(rows)
    seen: Counter[int] = Counter()
    for row in rows:
        index = row["index"]
        seen[index] += 1
        if row["shard"] != shard or samples.get(index) != (row["key"], row["sha256"]):
            part.num_foreign += 1
            part.problems.append(f"foreign: {shard}: row {index} {row['key']!r} is not that sample")
        elif seen[index] > 1:
            part.num_double += 1
            part.problems.append(f"double: {shard}: sample {index} {row['key']!r}")
        if row["error"]:
            part.rejected[row["error"]] += 1
    for index in sorted(samples.keys() - seen.keys()):
        part.num_missing += 1
        part.problems.append(f"missing: {shard}: sample {index} {samples[index][0]!r}")
    ordered = sorted(tuple(str(row[name]) if name != "index" else f"{row[name]:012}" for name in _COLUMNS)
                     for row in rows)
    part.digest = hashlib.sha256(repr(ordered).encode()).hexdigest()
    return part
