"""One run: plan, label, record.

In: a `Config`. Out: finished tables under `--output`, and a `Summary` whose `exit_code` a scheduler can act on.
Ray and torch are imported only when there is something to label (`execute`).
"""

from __future__ import annotations

import secrets
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config
from pipeline.inputs import find
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.model.weights import Weights
from pipeline.parse import parse_keep, parse_price
from pipeline.run.attempts import Context
from pipeline.run.execute import execute
from pipeline.run.record import Record
from pipeline.run.standing import Standing
from pipeline.run.summary import Summary
from pipeline.stop import Stop
from pipeline.store import storage
from pipeline.store.explain import check_atomic_put, explaining_errors
from pipeline.store.lease import Lease, hold_lease
from pipeline.tables import history, label_tables, ledger, plan
from pipeline.tables.label_files import read_footers
from pipeline.tables.lake.log import check_lake
from pipeline.tables.owner import claim
from pipeline.tables.owner.keep import settle_keep
from pipeline.upkeep import clean


class Inventory(NamedTuple):
    """What a run finds before it begins. `footers`: `FOOTERS` of the files that the ledger does not know."""

    run_weights: Weights
    classes: pa.Table
    todo: plan.Plan
    footers: pa.Table


class Planned(NamedTuple):
    """What the output says before a run. `footers`: `FOOTERS` of files that the ledger does not know. `mark`: what the
    output belongs to; None if it is new. `standing`: what the log of a lake lacks; None for plain Parquet."""

    todo: plan.Plan
    footers: pa.Table
    mark: claim.Mark | None
    standing: Standing | None


def label(config: Config, stream: TextIO = sys.stderr, stop: Stop | None = None) -> Summary:
    """Label every shard that is new, changed or was never finished.

    A run leaves marks, a row and a report once everything is checked that can be checked before labelling. A run
    that is refused, or that finds no cluster, leaves nothing.

    Raises:
        JobError: the run cannot begin, or an actor cannot start.
        Stopped: the process was asked to end; the output is in order.
    """
    stop = stop or Stop()
    start_s, started_at = time.monotonic(), datetime.now(UTC)
    run_id = new_run_id(started_at, config.run_name)
    run_weights = weights.identify(config.weights)
    classes = load_classes(config.classes)
    check_atomic_put("--output", config.output)
    check_lake(config)
    stop.check()
    with_lease = config.lease and not config.dry_run
    lock = hold_lease(config.output, run_id, "--output", "--no-lease") if with_lease else nullcontext()
    with storage.removing_new_folders_on_error(config.output), lock as lease:
        if lease:
            stop.last_calls.append(lease.release)
        damaged: list[str] = []
        with ThreadPoolExecutor(1, "list") as pool:  # a large listing waits for the store most of the time
            versions = pool.submit(label_tables.list_versions, config.output, run_weights.model_id, config.partition)
            listing = find_input(config)
            todo, footers, mark, standing = plan_run(config, run_weights, classes, listing, versions, damaged)
        config = settle_keep(config, listing.shards, listing.root, mark)
        stop.check()
        summary = Summary(
            run_id=run_id, model_id=run_weights.model_id, num_skipped=todo.num_done, num_pending=len(todo.pending),
            pending_bytes=pc.sum(todo.pending["size"]).as_py() or 0, num_orphans=len(todo.orphans),
            meaningless=run_weights.meaningless, left_out=listing.left_out, num_misplaced=len(todo.misplaced),
            damaged=damaged, num_beyond=todo.num_beyond, prices=parse_price(config.price),
            input_root=listing.root)
        if config.dry_run:
            with explaining_errors("--output", config.output):
                summary.expected = history.expect_run(config.output, run_id, summary.pending_bytes, summary.prices)
            summary.num_requests = plan.count_requests(todo.pending)
            return summary
        record = Record(config, summary, lease, classes, started_at, start_s, standing)
        try:
            _run(Context(config, summary, lease, stream, stop), Inventory(run_weights, classes, todo, footers), record)
        except BaseException:
            record.end(failed=True)
            raise
        record.end(failed=False)
        if (config.run_name or not summary.num_pending) and not summary.unrecorded:
            with summary.remembering_errors():  # a night that is tried again is judged as a whole
                summary.night = history.count_night(config.output, run_id, summary.model_id, config.run_name)
    return _note_kept_lease(summary, lease)


def _run(context: Context, inventory: Inventory, record: Record) -> None:
    """Label what is pending, and remove misplaced tables."""
    config, summary, todo = context.config, context.summary, inventory.todo
    if len(todo.pending):
        context.stop.check()
        execute(context, inventory.run_weights, inventory.classes, todo.pending,
                lambda: record.begin(inventory.footers))
    else:
        record.begin(inventory.footers)
    if summary.num_misplaced:
        paths = todo.misplaced["path"].to_pylist()
        summary.num_replaced = clean.remove_misplaced(config.output, summary.model_id, paths)


def _note_kept_lease(summary: Summary, lease: Lease | None) -> Summary:
    if lease and lease.release_error and not summary.unrecorded:
        summary.unrecorded = f"the lease is not given back ({lease.release_error}); it is over within a minute"
    return summary


def new_run_id(started_at: datetime, name: str | None) -> str:
    """The time, the name if there is one, and six random digits, since runs of one name may start in the same second.
    """
    return "-".join(filter(None, (f"{started_at:%Y%m%dT%H%M%S}", name, secrets.token_hex(3))))


def find_input(config: Config) -> find.Found:
    """The shards under the input, and the files that are left out.

    Raises:
        JobError: the input cannot be listed, or has nothing to label.
    """
    with explaining_errors("--input", config.input):
        listing = find.find_shards(config.input, config.format, config.partition, config.output,
                                   [column.source for column in parse_keep(config.keep)])
        find.check_found(config, listing)
    return listing


def plan_run(config: Config, run_weights: Weights, classes: pa.Table, listing: find.Found,
             versions: Future[pa.Table], damaged: list[str]) -> Planned:
    """Check that the output is this run's, and compare it with the input.

    Args:
        versions: of the tables of the output.
        damaged: gets the paths of files of the output that cannot be understood.

    Raises:
        UserError: the output cannot be read, or is of another input, other class names or another kind of shards.
    """
    output, model_id = config.output, run_weights.model_id
    with explaining_errors("--output", output):
        mark = claim.check_root(config, damaged, listing.root)
        claim.check_names(config, model_id, classes)
        outputs = versions.result()
        finished = ledger.read_finished(output, model_id, damaged)
        footers = read_footers(output, model_id, plan.find_unrecorded(outputs, finished))
        finished = pa.concat_tables([finished, footers.select(plan.FINISHED.names)])
        claim.check_kind(config, outputs.filter(pc.is_in(outputs["path"], finished["file"])), listing.shards)
        snapshot = label_tables.list_labels(output, model_id, config.partition) if config.table != "parquet" else None
    todo, standing = plan.make_plan(listing.shards, outputs, finished), None
    if snapshot is not None:
        unlisted, gone = plan.find_change(listing.shards, outputs, finished, snapshot)
        standing = Standing(unlisted, gone["path"].to_pylist())
        todo = replace(todo, orphans=gone, misplaced=gone.slice(0, 0))
    if config.limit_shards is not None:
        todo = plan.limit_plan(todo, listing.shards["path"], config.limit_shards)
    return Planned(todo, footers, mark, standing)
