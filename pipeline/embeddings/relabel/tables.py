"""The tables of a model -> the tables of another model that differs in its head alone: no image is read.

In: an output; weights whose layers below the head are those that labelled it. Out: tables of the new model, with the
rows that a run over the images would have written, under the same guarantees: a table is whole or absent, names the
version of its shard, and is in the ledger. A killed relabelling is completed by the next. A later run of the job with
the new weights finds these tables and labels only what is new.
Not here: the head itself (`training/finetune.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.embeddings.stream import Unreadable, embeddings_of, open_table
from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.spec import TOP_K
from pipeline.model.state_dicts import HEAD
from pipeline.runners.checks import check_classes
from pipeline.runners.folded import top_k
from pipeline.store.read_parquet import DAMAGE
from pipeline.store.retry import Replaced, describe_error
from pipeline.tables.counts import Counts
from pipeline.tables.label_files import encode_file
from pipeline.tables.label_tables import put_table
from pipeline.tables.labels import ROWS, SAMPLES, Answers, make_rows
from pipeline.tables.layout import Kind, label_uri
from pipeline.tables.ledger_rows import ShardRow
from pipeline.tables.table_paths import shard_of


@dataclass(frozen=True)
class Head:
    """The last layer of a network. `labels`: the label of each label_id."""

    weight_CD: Tensor
    bias_C: Tensor
    labels: pa.Array

    def answer(self, embedding_ND: np.ndarray[Any, Any]) -> Answers:
        """The answers for embeddings, float32 [N, 1536], as the labeller computes them: in float32."""
        logit_NC = torch.nn.functional.linear(torch.from_numpy(embedding_ND), self.weight_CD, self.bias_C)
        prob_NK, label_id_NK = top_k(logit_NC.softmax(1), min(TOP_K, len(self.bias_C)))
        return Answers(label_id_NK.numpy().astype(np.int16), prob_NK.numpy(), embedding_ND)


def read_head(new: weights.Weights, labelled_by: weights.Weights, classes: pa.Table) -> Head:
    """The head of new weights.

    Raises:
        UserError: the layers below the head are not those of the weights that labelled the tables, the classes are not
            those of the head, or weights cannot be read.
    """
    state, before = weights.load(new), weights.load(labelled_by)
    for name in sorted(before):
        if name not in HEAD and not torch.equal(state[name], before[name]):
            raise UserError(f"--weights {new.spec}: its layers below the head are not those of {labelled_by.spec}, "
                            f"which labelled the tables ({name} differs): the embeddings would be others, so the "
                            "images must be labelled anew by label-images run.")
    check_classes(len(state["last_linear.weight"]), classes)
    weight_CD, bias_C = (state[name].float() for name in HEAD)
    return Head(weight_CD, bias_C, classes["label"].combine_chunks())


@dataclass(frozen=True)
class Job:
    """What is to be relabelled. `files`: `FILES`, the tables of the old model. `kind`: what the tables are."""

    output: str
    run_id: str
    old_model: str
    new_model: str
    kind: Kind
    files: pa.Table


@dataclass(frozen=True)
class Done:
    """What became of a table. `row`: of the ledger. `counts`: of its rows; None if the table failed."""

    row: ShardRow
    counts: Counts | None


def relabel_tables(job: Job, head: Head) -> Iterator[Done]:
    """Write the new table of each old one, some at a time, in the order of `job.files`."""
    num_workers = os.cpu_count() or 1
    threads_before = torch.get_num_threads()
    torch.set_num_threads(1)  # each worker has a table of its own
    try:
        with ThreadPoolExecutor(num_workers) as pool:
            running = []
            for path, etag in zip(job.files["path"].to_pylist(), job.files["etag"].to_pylist(), strict=True):
                running.append(pool.submit(_relabel, job, head, path, etag))
                if len(running) > 2 * num_workers:
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
    finally:
        torch.set_num_threads(threads_before)


def _relabel(job: Job, head: Head, path: str, etag: str) -> Done:
    begun = time.monotonic()
    shard = shard_of(path) or path
    uri = label_uri(job.output, job.old_model, path, etag)
    counts = Counts()
    footer: dict[str, str] = {}
    try:
        with open_table(uri) as table:
            footer = {**table.footer, "model_id": job.new_model, "run_id": job.run_id}

            def pieces() -> Iterator[pa.Table]:
                for batch in table.batches():
                    rows = relabel_rows(batch, head)
                    counts.add(Counts.count_rows(rows))
                    yield rows

            data = encode_file(pieces(), table.file.schema_arrow.remove_metadata(), footer)
        file = put_table(job.output, job.new_model, job.kind, shard, data)
    except (Unreadable, Replaced, OSError, *DAMAGE) as error:
        return Done(_make_row(job, shard, footer, failure=describe_error(error)), None)
    return Done(_make_row(job, shard, footer, counts=counts, label_s=time.monotonic() - begun, file=path,
                          file_size=file.size, file_etag=file.etag), counts)


def relabel_rows(rows: pa.Table, head: Head) -> pa.Table:
    """Rows of a table with the answers of a head. The other columns, also kept ones, stay as they are."""
    answers = head.answer(embeddings_of(rows["embedding"]))
    new = make_rows(rows.select(SAMPLES.names), answers, head.labels)
    columns = {name: new[name] if name in ROWS.names and name != "embedding" else rows[name]
               for name in rows.column_names}
    if new["error"].null_count != rows["error"].null_count:  # the head's answers are not finite
        columns["embedding"] = new["embedding"].cast(rows["embedding"].type)
    return pa.table(columns)


def _make_row(job: Job, shard: str, footer: dict[str, str], *, failure: str | None = None, counts: Counts | None = None,
              label_s: float | None = None, file: str | None = None, file_size: int | None = None,
              file_etag: str | None = None) -> ShardRow:
    """The ledger's row of a table: `committed`, or `failed` with the reason."""
    size = footer.get("source_size")
    return ShardRow(
        run_id=job.run_id, shard=shard, source_uri=footer.get("source_uri"), source_size=int(size) if size else None,
        source_etag=footer.get("source_etag"), model_id=job.new_model, status="failed" if failure else "committed",
        failure=failure, num_images=counts.num_images if counts else None,
        num_rejected=counts.rejected.total() if counts else None,
        rejected=counts.list_rejected() if counts else None, num_left_out=None, left_out=None, image_bytes=None,
        decode_s=None, label_s=label_s, file=file, file_size=file_size, file_etag=file_etag,
        labelled_at=datetime.now(UTC))
