"""A relabelling as a run: plan, relabel, record.

In: an output, new weights. Out: tables of the new model, a row in `runs`, and a `Summary`. The plan: a table of the old
model is done if the new model has one of the same version of the shard, or a newer one.
Not here: how a table is relabelled (`tables.py`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config, check_uri
from pipeline.embeddings.relabel.tables import Done, Job, read_head, relabel_tables
from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.run.night import new_run_id
from pipeline.run.record import Record
from pipeline.run.standing import Standing
from pipeline.run.summary import NAMED, Summary
from pipeline.stop import Stop
from pipeline.store.explain import check_atomic_put, explaining_errors
from pipeline.store.lease import hold_lease
from pipeline.store.listing import FILES
from pipeline.store.uris import canonical_uri
from pipeline.tables import history, label_tables, ledger
from pipeline.tables.label_files import read_footers
from pipeline.tables.ledger_rows import ShardRow
from pipeline.tables.owner import claim
from pipeline.tables.owner.models import list_models
from pipeline.tables.plan import FINISHED, find_change, find_unrecorded
from pipeline.tables.table_paths import shard_of

FLUSH_LEDGER_S = 60.0
SHOW_S = 5.0  # between two lines of progress
ROWS_A_FILE = 10_000  # of the ledger


@dataclass(frozen=True)
class Relabelling:
    """What a user asks for.

    `weights`, `classes`: as of the labelling job. `model`: whose tables are relabelled; None: the only other model.
    `labelled_by`: the weights of that model; None: as the newest run of that model had them.
    """

    output: str
    weights: str
    classes: str | None = None
    model: str | None = None
    labelled_by: str | None = None
    run_name: str | None = None


def relabel(asked: Relabelling, stream: TextIO = sys.stderr, stop: Stop | None = None) -> Summary:
    """Write the tables of the new model that are missing or old.

    Raises:
        Busy: a run writes to the output.
        UserError: the output has no such tables, or the weights differ below the head.
        Stopped: the process was asked to end; the output is in order.
    """
    stop = stop or Stop()
    start_s, started_at = time.monotonic(), datetime.now(UTC)
    check_uri("output", asked.output)
    output = canonical_uri(asked.output)
    new, classes = weights.identify(asked.weights), load_classes(asked.classes)
    check_atomic_put("--output", output)
    run_id = new_run_id(started_at, asked.run_name)
    with hold_lease(output, run_id, "--output", "another --output") as lease:
        stop.last_calls.append(lease.release)
        damaged: list[str] = []
        old_model = asked.model or _other_model(output, new.model_id)
        head = read_head(new, find_weights(output, old_model, asked.labelled_by), classes)
        with explaining_errors("--output", output):
            mark = claim.read_mark(output, damaged)
            if mark is None:
                raise UserError(f"--output {output} has no tables of {old_model}.")
            config = Config(input=mark.input, output=output, weights=asked.weights, classes=asked.classes,
                            keep=mark.keep, run_name=asked.run_name, table=label_tables.find_kind(output))
            claim.check_names(config, new.model_id, classes)
            todo = plan_relabelling(output, old_model, new.model_id, damaged)
        summary = Summary(
            run_id=run_id, model_id=new.model_id, num_skipped=todo.num_done, num_pending=len(todo.pending),
            pending_bytes=pc.sum(todo.pending["size"]).as_py() or 0, num_orphans=0, meaningless=new.meaningless,
            damaged=damaged, input_root=mark.input, device="cpu", precision="fp32", runner="head",
            hardware=f"from the embeddings of {old_model}")
        record = Record(config, summary, lease, classes, started_at, start_s, todo.standing)
        try:
            record.begin(todo.footers)
            job = Job(output, run_id, old_model, new.model_id, config.table, todo.pending)
            _count(relabel_tables(job, head), job, summary, stop, stream)
            lease.check()
        except BaseException:
            record.end(failed=True)
            raise
        record.end(failed=False)
    return summary


def _other_model(output: str, new_model: str) -> str:
    """The model whose tables are relabelled: the only one that is not the new model."""
    with explaining_errors("--output", output):
        models = [model for model in list_models(output) if model != new_model]
    if not models:
        raise UserError(f"--output {output} has no labels of another model than {new_model}, that of --weights.")
    if len(models) > 1:
        raise UserError(f"--output {output} has labels of {len(models)} other models: name one with --model, of "
                        f"{', '.join(models)}.")
    return models[0]


def find_weights(output: str, model_id: str, spec: str | None) -> weights.Weights:
    """The weights that labelled the tables of a model.

    Args:
        spec: a value of `--weights`; None: that of the newest run of the model.

    Raises:
        UserError: they are not the weights of this model, cannot be read, or no run tells of them.
    """
    spec = spec or history.read_settings(output, model_id).get("weights")
    if spec is None:
        raise UserError(f"--labelled-by is needed: no run of --output {output} tells which weights {model_id} is.")
    found = weights.identify(spec)
    if found.model_id != model_id:
        raise UserError(f"--labelled-by {spec}: these weights are {found.model_id}, and the tables are of {model_id}.")
    return found


@dataclass(frozen=True)
class Plan:
    """What is to be relabelled.

    `pending`: tables of the old model, of `FILES`. `num_done`: how many need nothing. `footers`: `FOOTERS` of tables of
    the new model that the ledger does not know. `standing`: what the log of a lake lacks; None for plain Parquet.
    """

    pending: pa.Table
    num_done: int
    footers: pa.Table
    standing: Standing | None


def plan_relabelling(output: str, old_model: str, new_model: str, damaged: list[str]) -> Plan:
    """Compare the tables of two models.

    A table is pending if the new model has none, or one of another version of the shard that was written before.

    Args:
        damaged: gets the paths of files of the ledger that cannot be read.
    """
    old_files = label_tables.list_labels(output, old_model)
    old, _ = _list_known(output, old_model, old_files, damaged)
    new_files = label_tables.list_versions(output, new_model)
    new, footers = _list_known(output, new_model, new_files, damaged)
    standing = None
    if label_tables.find_kind(output) != "parquet":
        names = [shard_of(path) for path in old["file"].to_pylist()]
        shards = pa.table([names, old["source_size"], old["source_etag"]], FILES.names)
        snapshot = label_tables.list_labels(output, new_model)
        unlisted, _ = find_change(shards, new_files, new, snapshot)
        standing = Standing(_drop_older(output, new_model, unlisted, snapshot), [])
    same = old.join(new, ["file", "source_size", "source_etag"], join_type="left semi")["file"]
    differ = old.filter(pc.and_(pc.is_in(old["file"], new["file"].combine_chunks()),
                                pc.invert(pc.is_in(old["file"], same.combine_chunks()))))
    newer = _find_newer(output, {old_model: old_files, new_model: new_files}, differ["file"])
    done = pa.array([*same.to_pylist(), *newer], pa.string())
    is_pending = pc.and_(pc.is_in(old_files["path"], old["file"].combine_chunks()),
                         pc.invert(pc.is_in(old_files["path"], done)))
    return Plan(old_files.filter(is_pending).sort_by("path"), len(done), footers, standing)


def _list_known(output: str, model_id: str, files: pa.Table, damaged: list[str]) -> tuple[pa.Table, pa.Table]:
    """Tables of a model as `FINISHED`, and as `FOOTERS` those that the ledger does not know. `files`: of `FILES`."""
    finished = ledger.read_finished(output, model_id, damaged)
    footers = read_footers(output, model_id, find_unrecorded(files, finished))
    known = pa.concat_tables([finished, footers.select(FINISHED.names)])
    present = known.join(files, ["file", "file_size", "file_etag"], ["path", "size", "etag"], "left semi")
    return present.group_by(FINISHED.names).aggregate([]), footers


def _drop_older(output: str, model_id: str, unlisted: pa.Table, snapshot: pa.Table) -> pa.Table:
    """Of tables that no snapshot has, those that are newer than what the snapshot has of the same shard."""
    replaced = snapshot.filter(pc.is_in(snapshot["path"], unlisted["path"].combine_chunks()))
    before, after = (_read_run_ids(output, model_id, files) for files in (replaced, unlisted))
    return unlisted.filter(pa.array([after.get(path, "") > before.get(path, "")
                                     for path in unlisted["path"].to_pylist()], pa.bool_()))


def _find_newer(output: str, files_of: dict[str, pa.Table], paths: pa.ChunkedArray) -> list[str]:
    """Those of the tables that the new model wrote after the old one. The ids of runs begin with the time.

    Args:
        files_of: `FILES` of the old model, then of the new one.
    """
    old, new = (_read_run_ids(output, model_id, files.filter(pc.is_in(files["path"], paths.combine_chunks())))
                for model_id, files in files_of.items())
    return [path for path in paths.to_pylist() if new.get(path, "") > old.get(path, "")]


def _read_run_ids(output: str, model_id: str, files: pa.Table) -> dict[str, str]:
    """Which run wrote each table, by path; the newest if there are several versions of a table."""
    rows = read_footers(output, model_id, files).to_pylist()
    return {row["file"]: row["run_id"] or "" for row in sorted(rows, key=lambda row: row["run_id"] or "")}


def _count(tables: Iterable[Done], job: Job, summary: Summary, stop: Stop, stream: TextIO) -> None:
    """Count what becomes of the tables, write the ledger now and then, and say how far it is."""
    rows: list[ShardRow] = []
    num_files, begun = 0, time.monotonic()
    flushed_s = shown_s = begun

    def flush() -> None:
        nonlocal rows, num_files, flushed_s
        if rows:
            ledger.write_shards(job.output, f"{job.run_id}-{num_files:05}", rows)
        rows, num_files, flushed_s = [], num_files + 1, time.monotonic()

    try:
        for number, done in enumerate(tables, start=1):
            rows.append(done.row)
            if done.counts is None:
                summary.num_failed += 1
                if len(summary.failed) < NAMED:
                    summary.failed[done.row.shard] = str(done.row.failure)
            else:
                summary.num_committed += 1
                summary.counts.add(done.counts)
                summary.findings.add(time.monotonic() - begun, done.counts.num_images, [], [])
            now_s = time.monotonic()
            summary.images_per_s = summary.counts.num_images / max(1e-9, now_s - begun)
            if now_s - shown_s > SHOW_S:
                shown_s = now_s
                print(f"{summary.counts.num_images:,} rows, {summary.images_per_s:,.0f}/s, {number:,} of "
                      f"{len(job.files):,} tables", file=stream, flush=True)
            if now_s - flushed_s > FLUSH_LEDGER_S or len(rows) >= ROWS_A_FILE:
                flush()
            stop.check()
    finally:
        with summary.remembering_errors():
            flush()
