"""One run: plan, execute, ledger, summary.

In: a `Config`. Out: finished tables under `--output`, and a `Summary` whose `exit_code` a scheduler can act on.
Ray and torch are imported only when there is something to label.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import secrets
import sys
import time
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config
from pipeline.inputs import find
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.model.weights import Weights
from pipeline.report import render
from pipeline.run.attempts import execute
from pipeline.run.tally import Summary
from pipeline.stop import Stop
from pipeline.store import storage
from pipeline.store.explain import check_atomic_put, explaining_errors
from pipeline.store.lease import Lease, hold_lease
from pipeline.store.retry import describe_error, without_retries
from pipeline.tables import history, ledger, output, plan


def label(config: Config, stream: TextIO = sys.stderr, stop: Stop | None = None) -> Summary:
    """Label every shard that is new, changed or was never finished.

    A run has marks, a row and a report once all is checked that can be before it begins to label; one that is refused or
    finds no cluster leaves nothing.

    Raises:
        UserError: what the user can mend, before anything is labelled.
        Stopped: the process was asked to end; the run is in order.
    """
    stop = stop or Stop()
    begun, started_at = time.monotonic(), datetime.now(UTC)
    run_id = new_run_id(started_at, config.run_name)
    chosen = weights.identify(config.weights)
    classes = load_classes(config.classes)
    found = _inputs(config)
    check_atomic_put("--output", config.output)
    stop.check()
    lock = hold_lease(config.output, run_id, "--output", "--no-lease") if config.lease and not config.dry_run else nullcontext()
    with storage.removing_new_folders_on_error(config.output), lock as lease:
        if lease:
            stop.last_calls.append(lease.release)
        damaged: list[str] = []
        made, found_footers = _plan(config, chosen, classes, found, damaged)
        stop.check()
        summary = Summary(run_id, chosen.model_id, made.num_done, len(made.pending),
                          pc.sum(made.pending["size"]).as_py() or 0, len(made.orphans), chosen.meaningless, left_out=found.left_out,
                          num_misplaced=len(made.misplaced), damaged=damaged)
        if config.dry_run:
            summary.expected_s = history.estimate_seconds(config.output, run_id, summary.pending_bytes)
            return summary
        with ExitStack() as ending:
            def end() -> None:
                summary.seconds = time.monotonic() - begun
                with without_retries() if summary.unrecorded else nullcontext():
                    _record(config, summary, lease, started_at, classes)
                    if lease and summary.unrecorded:
                        lease.release()

            def begin() -> None:
                if lease:
                    lease.check()  # the cluster may have been waited for
                output.claim_output(config, chosen.model_id, classes)
                ending.callback(end)
                _begin(config, summary, lease, started_at, found_footers)

            if len(made.pending):
                stop.check()
                execute(config, chosen, classes, made.pending, summary, lease, stream, stop, begin)
            else:
                begin()
            if summary.num_misplaced:
                summary.num_replaced = output.remove_misplaced(config.output, chosen.model_id, made.misplaced["path"].to_pylist())
    if lease and lease.release_error:
        summary.unrecorded = summary.unrecorded or f"the lease is not given back ({lease.release_error}); it is over within a minute"
    return summary


def new_run_id(started_at: datetime, name: str | None) -> str:
    """The time, the name if there is one, and six random digits: runs of one name may start in the same second."""
    return "-".join(filter(None, (f"{started_at:%Y%m%dT%H%M%S}", name, secrets.token_hex(3))))


def _inputs(config: Config) -> find.Found:
    """The shards under the input, and what is left out."""
    with explaining_errors("--input", config.input):
        found = find.find_shards(config.input, config.format, config.partition, config.output)
        find.check_found(config, found)
    return found


def _plan(config: Config, chosen: Weights, classes: pa.Table, found: find.Found, damaged: list[str]) -> tuple[plan.Plan, pa.Table]:
    """List the output, and compare; and what the footers said of files that the ledger did not know."""
    with explaining_errors("--output", config.output):
        output.check_root(config, damaged)
        output.check_names(config, chosen.model_id, classes)
        outputs = ledger.list_labels(config.output, chosen.model_id, config.partition)
        finished = ledger.read_finished(config.output, chosen.model_id, damaged)
        unknown = plan.find_unrecorded(outputs, finished)
        footers = ledger.read_footers(config.output, chosen.model_id, unknown)
        finished = pa.concat_tables([finished, footers.select(plan.FINISHED.names)])
        output.check_kind(config, outputs.filter(pc.is_in(outputs["path"], finished["file"])), found.shards)
    return plan.make_plan(found.shards, outputs, finished), footers


def _begin(config: Config, summary: Summary, lease: Lease | None, started_at: datetime, footers: pa.Table) -> None:
    """What killed runs owe the ledger; and this run's row, which says `running` until it ends."""
    with explaining_errors("--output", config.output):
        if lease:
            history.record_unlogged_tables(config.output, summary.model_id, footers, summary.run_id)
            history.mark_killed_runs(config.output, summary.run_id, summary.damaged)
        if summary.num_pending:
            ledger.write(config.output, "runs", summary.run_id, [_run_row(config, summary, "running", started_at)], ledger.RUNS)


def _record(config: Config, summary: Summary, lease: Lease | None, started_at: datetime, classes: pa.Table) -> None:
    """The run's row and its report, whatever way the run ends; and its staging removed, with a lease that of dead runs too."""
    broken = sys.exc_info()[0] is not None or summary.num_failed or summary.unrecorded
    row = _run_row(config, summary, "failed" if broken else "done", started_at)
    try:
        whole = lease is not None and lease.lost is None
        storage.remove(storage.join(config.output, "_staging", *([] if whole else [summary.run_id])))
        page = render.render_page(row, summary.findings, summary.failed, classes["label"].to_pylist(),
                           history.read_run_before(config.output, summary.run_id), summary.notes)
        storage.put_whole(output.report_uri(config.output, summary.run_id), page.encode())
        if whole:
            output.remove_old_reports(config.output, config.keep_reports)
    except Exception as error:  # noqa: BLE001  # each store has its own exceptions
        summary.unrecorded = describe_error(error)
        row["status"] = "failed"
    try:  # last, for it says how the run ended
        ledger.write(config.output, "runs", summary.run_id, [row], ledger.RUNS)
    except Exception as error:  # noqa: BLE001
        summary.unrecorded = summary.unrecorded or describe_error(error)


def _run_row(config: Config, summary: Summary, status: str, started_at: datetime) -> dict[str, Any]:
    versions = {name: version(name) for name in ("ray", "torch", "torchvision", "pyarrow", "pillow", "simplejpeg")}
    return {
        "run_id": summary.run_id, "status": status, "started_at": started_at, "seconds": summary.seconds, "input": config.input,
        "model_id": summary.model_id, "device": summary.device, "precision": summary.precision, "runner": summary.runner,
        "hardware": summary.hardware, "versions": json.dumps(versions | {"python": platform.python_version()}),
        "config": json.dumps(dataclasses.asdict(config)), "pending_bytes": summary.pending_bytes, "num_skipped": summary.num_skipped,
        "num_committed": summary.num_committed, "num_failed": summary.num_failed,
        "num_orphans": summary.num_orphans + summary.num_misplaced - summary.num_replaced, **summary.counts.columns(),
        "num_left_out": summary.left_out.total(), "left_out": summary.left_out.rows(), "images_per_s": summary.images_per_s,
        "cpu_s": summary.cpu_s, "gpu_s": summary.gpu_s}
