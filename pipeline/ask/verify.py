"""Proof that every sample of the input has exactly one row.

In: the shards of the input, and the labels tables. Out: a `Proof`: counts, a digest, and a list of problems.
What was proven of the same versions before is taken from the table `proofs`. The rest is compared shard by shard
(`compare`): on the cluster at RAY_ADDRESS, or by processes of this machine. Torch is not needed.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.actors.tasks import choose_map
from pipeline.ask import proofs
from pipeline.ask.compare import Job, Part, compare_shards
from pipeline.config import check_uri
from pipeline.errors import CaughtError
from pipeline.formats.left_out import LeftOut
from pipeline.inputs.find import find_shards
from pipeline.inputs.read import Inputs
from pipeline.store.explain import explaining_errors
from pipeline.store.retry import describe_error
from pipeline.store.uris import canonical_uri
from pipeline.tables import label_tables
from pipeline.tables.owner.models import only_model
from pipeline.tables.table_paths import table_path, table_paths

MOST_TOGETHER, TOGETHER_BYTES = 64, 2**28  # shards of a task, and their bytes
FLUSH_S, SHOW_S = 60.0, 5.0


@dataclass
class Proof:
    """What a comparison of input and output found.

    `num_missing`: samples without a row. `num_double`: rows of a sample that has a row already. `num_foreign`: rows
    and tables of no sample. `rejected`: rows by reason code. `problems`: a line each. `left_out`: files and members
    of the input that have no row by their names. `digest`: SHA-256 over (shard, index, key, sha256, error) of all
    rows, in order; empty if shards are not proven. `num_known`: shards that were proven before. `num_unproven`: shards
    that a sample left out. `unrecorded`: why the table `proofs` lacks what was proven, if it does.
    """

    model_id: str
    num_shards: int = 0
    num_samples: int = 0
    num_rows: int = 0
    num_missing: int = 0
    num_double: int = 0
    num_foreign: int = 0
    num_known: int = 0
    num_unproven: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    digest: str = ""
    unrecorded: str = ""

    def add(self, part: Part) -> None:
        """Count a shard."""
        self.num_samples += part.num_samples
        self.num_rows += part.num_rows
        self.num_missing += part.num_missing
        self.num_double += part.num_double
        self.num_foreign += part.num_foreign
        self.rejected += part.rejected
        self.problems += part.problems
        self.left_out.add(part.left_out.rows())


@dataclass(frozen=True)
class Which:
    """Which shards are compared. `everything`: also those that were proven before. `sample`: of them this share, chosen
    by the hash of their names."""

    everything: bool = False
    sample: float = 1.0

    def choose(self, shards: pa.Table) -> pa.Table:
        """The chosen shards of a listing."""
        if self.sample >= 1:
            return shards
        digests = [hashlib.sha256(path.encode()).digest() for path in shards["path"].to_pylist()]
        return shards.filter(pa.array([int.from_bytes(digest[:8], "big") < self.sample * 2**64 for digest in digests],
                                      pa.bool_()))


def verify(input_uri: str, output_uri: str, model_id: str | None, inputs: Inputs, format: str = "auto",
           which: Which = Which(), stream: TextIO | None = None) -> Proof:  # it is frozen
    """Compare each shard with its table.

    Args:
        model_id: None: the only model of the output.
        inputs, format: as the job had them.
        stream: gets a line of progress now and then.

    Raises:
        NoCluster: there is no Ray at RAY_ADDRESS.
        UserError: a side cannot be listed, or the output has several models and none is named.
    """
    check_uri("input", input_uri)
    check_uri("output", output_uri)
    input_uri, output_uri = canonical_uri(input_uri), canonical_uri(output_uri)
    proof = Proof(model_id or only_model(output_uri))
    with explaining_errors("--input", input_uri):
        shards, proof.left_out, root = find_shards(input_uri, format, output=output_uri)
    with explaining_errors("--output", output_uri):
        listed = label_tables.list_labels(output_uri, proof.model_id)
    tables = label_tables.etags_of(listed)
    etags = pa.array([tables.get(path) for path in table_paths(shards["path"]).to_pylist()], pa.string())
    shards = shards.append_column("file_etag", etags)
    known = _read_known(output_uri, proof.model_id, shards)
    proven = {row["shard"]: row for row in known.to_pylist()}
    digests = {shard: row["digest"] for shard, row in proven.items()}
    fresh = shards if which.everything else shards.filter(pc.invert(pc.is_in(
        shards["path"], known["shard"].combine_chunks())))
    todo = which.choose(fresh)
    proof.num_shards, proof.num_unproven = len(shards), len(fresh) - len(todo)
    proof.num_known = len(shards) - len(fresh)
    for shard in () if which.everything else proven:
        proof.add(proofs.make_part(proven[shard]))
    for part in _compare(Job(root, output_uri, proof.model_id, inputs), todo, proven, proof, stream):
        proof.add(part)
        digests[part.shard] = part.digest
    for path in sorted(tables.keys() - set(map(table_path, shards["path"].to_pylist()))):
        proof.num_foreign += 1
        proof.problems.append(f"foreign: {path} is of no shard of the input")
    if not proof.num_unproven:
        whole = hashlib.sha256()
        for shard in shards["path"].to_pylist():
            whole.update(digests.get(shard, "").encode())
        proof.digest = whole.hexdigest()
    return proof


def _read_known(output: str, model_id: str, shards: pa.Table) -> pa.Table:
    """What is proven of the listed versions, as a table of `PROOFS`."""
    present = shards.select(["path", "size", "etag", "file_etag"]).rename_columns([*proofs.VERSION])
    with explaining_errors("--output", output):
        return proofs.read_proofs(output, model_id, present)


def _compare(job: Job, todo: pa.Table, proven: dict[str, Any], proof: Proof, stream: TextIO | None) -> Iterator[Part]:
    """The part of each shard, in order; what is sound and not proven yet is written to `proofs` now and then."""
    rows: list[dict[str, Any]] = []
    begun = flushed_s = shown_s = time.monotonic()
    num_shards = num_samples = 0
    num_bytes = pc.sum(todo["size"]).as_py() or 0
    tasks = _split(todo)

    def flush() -> None:
        nonlocal rows, flushed_s
        with CaughtError() as caught:
            if rows and not proof.unrecorded:
                proofs.write_proofs(job.output, rows)
        if caught.error is not None:
            proof.unrecorded = describe_error(caught.error)
        rows, flushed_s = [], time.monotonic()

    try:
        with choose_map(num_bytes) as run:
            for task, parts in zip(tasks, run(partial(compare_shards, job), tasks), strict=True):
                for (listed, etag), part in zip(task, parts, strict=True):
                    if not part.problems and part.is_of_listing and etag is not None and part.shard not in proven:
                        rows.append(proofs.make_row(part, job.model_id, listed, etag))
                    num_shards, num_samples = num_shards + 1, num_samples + part.num_samples
                    yield part
                now_s = time.monotonic()
                if now_s - flushed_s > FLUSH_S:
                    flush()
                if stream and now_s - shown_s > SHOW_S:
                    shown_s = now_s
                    print(f"{num_samples:,} samples, {num_samples / (now_s - begun):,.0f}/s, {num_shards:,} of "
                          f"{len(todo):,} shards", file=stream, flush=True)
    finally:
        flush()


def _split(todo: pa.Table) -> list[list[tuple[dict[str, Any], str | None]]]:
    """The shards of each task: rows of the listing, each with the etag of its table."""
    tasks: list[list[tuple[dict[str, Any], str | None]]] = []
    num_bytes = 0
    for row in todo.to_pylist():
        etag = row.pop("file_etag")
        if not tasks or num_bytes + row["size"] > TOGETHER_BYTES or len(tasks[-1]) == MOST_TOGETHER:
            tasks.append([])
            num_bytes = 0
        tasks[-1].append((row, etag))
        num_bytes += row["size"]
    return tasks
