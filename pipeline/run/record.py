"""The record of a run in its output: the marks, the row in the table `runs`, and the report.

In: config, summary, lease. Out: files of the output. Nothing is written before `begin`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import time
from datetime import datetime
from importlib.metadata import version

import pyarrow as pa

from pipeline.config import Config
from pipeline.errors import CaughtError
from pipeline.report import render
from pipeline.run.standing import Standing
from pipeline.run.summary import Summary
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.lease import Lease
from pipeline.store.retry import describe_error
from pipeline.tables import history, ledger
from pipeline.tables.layout import report_uri
from pipeline.tables.ledger_rows import RunRow, to_columns
from pipeline.tables.owner.claim import claim_output
from pipeline.upkeep.clean import remove_old_reports
from pipeline.upkeep.compact import compact_ledger

_LOGGER = logging.getLogger(__name__)
PACKAGES = ("ray", "torch", "torchvision", "pyarrow", "pillow", "simplejpeg")  # whose versions the row names


class Record:
    """Writes the record of one run, at its begin and at its end.

    Args:
        classes: the class names of the model.
        started_at: when the run was started; `start_s`, the same by the monotonic clock.
        standing: what the log of a lake table lacks; None for plain Parquet.
    """

    def __init__(self, config: Config, summary: Summary, lease: Lease | None, classes: pa.Table, started_at: datetime,
                 start_s: float, standing: Standing | None = None) -> None:
        self.config, self.summary, self.lease, self.classes = config, summary, lease, classes
        self.started_at, self.start_s = started_at, start_s
        self.standing, self.begun = standing, False

    def begin(self, footers: pa.Table) -> None:
        """Claim the output; enter what killed runs left unrecorded; and write this run's row, which says `running`
        until the end.

        Args:
            footers: `FOOTERS` of files that the ledger does not know.

        Raises:
            Busy: another run has taken the lease.
            UserError: the output cannot be written.
        """
        output, summary = self.config.output, self.summary
        if self.lease:
            self.lease.check()  # the run may have waited for the cluster
        claim_output(self.config, summary.model_id, self.classes, summary.input_root)
        self.begun = True
        with explaining_errors("--output", output):
            if self.lease:
                history.record_unlogged_tables(output, summary.model_id, footers, summary.run_id)
                history.mark_killed_runs(output, summary.run_id, summary.damaged)
            if summary.num_pending:
                ledger.write_run(output, self.make_row("running"))

    def end(self, *, failed: bool) -> None:
        """Remove the staging pieces, write the report, and last the row, which says how the run ended. A run that
        has not begun leaves nothing. An error of the store is kept in `summary.unrecorded`.

        Args:
            failed: an error or a request to end broke the run off.
        """
        if not self.begun:
            return
        summary = self.summary
        summary.seconds = time.monotonic() - self.start_s
        with summary.trying_once():
            self._commit()
            row = self.make_row("failed" if failed or summary.num_failed or summary.unrecorded else "done")
            with summary.remembering_errors():
                self._write_report(row)
            if summary.unrecorded:
                row.status = "failed"
            with summary.remembering_errors():
                ledger.write_run(self.config.output, row)
            summary.row = row
            if self.lease and summary.unrecorded:
                self.lease.release()
            elif self.lease and not failed:
                self._compact(self.lease)

    def _commit(self) -> None:
        """Commit to the log of a lake table what is finished. Without the lease that is for the run that took it."""
        if self.standing is None or (self.lease and self.lease.lost is not None):
            return
        summary = self.summary
        with summary.remembering_errors():
            self.standing.commit(self.config, summary.model_id, summary.run_id)
            summary.num_gone, summary.num_orphans = summary.num_orphans, 0

    def _compact(self, lease: Lease) -> None:
        """Merge small files of the ledger. An error changes nothing of what was recorded; the next run tries again."""
        with CaughtError() as caught:
            compact_ledger(self.config.output, lease.check)
        if caught.error is not None:
            _LOGGER.warning("the files of the ledger are not merged: %s", describe_error(caught.error))

    def _write_report(self, row: RunRow) -> None:
        """Remove the staging pieces of this run, with the lease also those of dead runs; and write the report."""
        output, summary = self.config.output, self.summary
        holds_lease = self.lease is not None and self.lease.lost is None
        storage.remove(storage.join(output, "_staging", *([] if holds_lease else [summary.run_id])))
        before = history.read_run_before(output, summary.run_id)
        page = render.render_page(to_columns(row), summary.findings, summary.failed, self.classes["label"].to_pylist(),
                                  to_columns(before) if before else None, summary.notes)
        storage.put_whole(report_uri(output, summary.run_id), page.encode())
        if holds_lease:
            remove_old_reports(output, self.config.keep_reports)

    def make_row(self, status: str) -> RunRow:
        """The row of the run as the summary stands now. `status`: `running`, `done` or `failed`."""
        config, summary, counts = self.config, self.summary, self.summary.counts
        versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
        return RunRow(
            run_id=summary.run_id, status=status, started_at=self.started_at, seconds=summary.seconds,
            input=config.input, model_id=summary.model_id, device=summary.device,
            precision=summary.precision, runner=summary.runner, hardware=summary.hardware,
            versions=json.dumps(versions), config=json.dumps(dataclasses.asdict(config)),
            pending_bytes=summary.pending_bytes, num_skipped=summary.num_skipped, num_committed=summary.num_committed,
            num_failed=summary.num_failed,
            num_orphans=summary.num_orphans + summary.num_misplaced - summary.num_replaced,
            num_images=counts.num_images, num_rejected=counts.rejected.total(), rejected=counts.list_rejected(),
            num_left_out=summary.left_out.total(), left_out=summary.left_out.rows(), labels=counts.list_labels(),
            confidence=counts.confidence, images_per_s=summary.images_per_s, cpu_s=summary.cpu_s, gpu_s=summary.gpu_s,
            held_cpu_s=summary.held_cpu_s, held_gpu_s=summary.held_gpu_s, cost=summary.cost)
