"""Reports of blocks -> rows of the `shards` table, and the counts of the summary.

In: `Report`s. Out: a filled `Summary`, and the ledger of shards under `<output>/shards/`.
A shard is committed when all its segments of one version are reported, and one of them brought the file. A shard
that nobody reported as a whole is settled by looking at the output itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CaughtError
from pipeline.run.open_shard import OpenShard
from pipeline.run.summary import NAMED, Summary
from pipeline.stages.reports import Report, SegmentReport
from pipeline.store import storage
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import describe_error
from pipeline.tables import label_tables, ledger
from pipeline.tables.counts import COUNTED_COLUMNS, Counts
from pipeline.tables.label_files import read_footers
from pipeline.tables.layout import label_uri
from pipeline.tables.ledger_rows import ShardRow
from pipeline.tables.table_paths import table_paths

FLUSH_LEDGER_S = 60.0
MOST_SETTLED = 20_000  # shards that the end of a broken-off run looks up in the output
REASONS = 10_000  # retryable failures that are kept, of 200 bytes each
ROWS_A_FILE = 10_000  # of the ledger
DIED = "the process that read or labelled it died, or its node did"
CUT_SHORT = "the run ended before all its rows were written"


class Tally:
    """Counts what the blocks of a run report. For a shard that has ended the tally keeps one byte.

    `ended`: bool for each pending shard. `reason`: why the last attempt stopped early, if it did. `label_cpus`,
    `label_gpus`: that a labeller keeps busy. `last_attempt`: a retryable failure is final, too.

    Args:
        pending: the paths of the pending shards; the `number` of a segment is an index of this array.
        on_end: called with the status of each shard that ends.
        partition: the folder of the input to which the run is confined.
    """

    def __init__(self, output: str, summary: Summary, pending: pa.Array, on_end: Callable[[str], None],
                 partition: str | None = None) -> None:
        self.output, self.summary, self.pending, self.on_end = output, summary, pending, on_end
        self.partition = partition
        self.label_cpus, self.label_gpus = 0.0, 0.0
        self.start_s = time.monotonic()
        self.ended = np.zeros(len(pending), bool)
        self.open: dict[tuple[int, str], OpenShard] = {}  # by number and version
        self.failures: dict[int, str] = {}  # retryable failures of shards that have not ended
        self.last_attempt = False
        self.reason: str | None = None
        self.rows: list[ShardRow] = []
        self.num_files, self.num_refused, self.flushed_s = 0, 0, time.monotonic()

    def list_left(self) -> np.ndarray[Any, Any]:
        """The numbers of the shards that have not ended, int64."""
        return np.flatnonzero(~self.ended)

    def add(self, report: Report) -> None:
        """Count a report.

        Now and then the ledger is written; rows that the store does not take wait for the next time.
        """
        summary = self.summary
        summary.findings.add(time.monotonic() - self.start_s, sum(segment.num_images for segment in report.segments),
                             report.pictures, [example for segment in report.segments for example in segment.examples])
        summary.cpu_s += report.label_s * self.label_cpus
        summary.gpu_s += report.label_s * self.label_gpus
        summary.num_slots += report.num_slots
        summary.num_blocks += report.num_blocks
        summary.num_moved += report.num_moved
        if report.runner:
            summary.precision, summary.runner = report.precision or "", report.runner
            summary.runner_note = summary.runner_note or report.runner_note or ""
        for segment in report.segments:
            summary.cpu_s += segment.decode_s
            summary.num_labelled += segment.num_images
            if not self.ended[segment.number]:  # a shard that has ended failed in another of its segments
                self._add_segment(segment)
        if time.monotonic() - self.flushed_s > FLUSH_LEDGER_S or len(self.rows) >= ROWS_A_FILE * (1 + self.num_refused):
            with CaughtError() as caught:
                self.flush()
            self.num_refused = self.num_refused + 1 if caught.error else 0
            if caught.error:
                logging.getLogger(__name__).warning("the ledger is not written: %s", describe_error(caught.error))

    def _add_segment(self, segment: SegmentReport) -> None:
        key = (segment.number, segment.etag)
        shard = self.open.get(key)
        if shard is None:
            path = self.pending[segment.number].as_py()
            shard = self.open[key] = OpenShard(path, segment.uri, segment.size, segment.etag)
        shard.add(segment)
        if segment.failure is not None and segment.retryable and not self.last_attempt:
            del self.open[key]
            if len(self.failures) < REASONS:
                self.failures[segment.number] = segment.failure
        elif segment.failure is not None:
            self._end(segment.number, shard, segment.failure)
        elif shard.is_whole():
            self._end(segment.number, shard, None)

    def settle(self, *, last: bool) -> None:
        """End an attempt: an unreported shard is committed if the output has its file; else it failed, if the
        attempt was the last.
        """
        unreported = self.list_left().tolist()
        for number, footer in self._read_finished(unreported):
            shard = self.open.get((number, footer["source_etag"]))
            if shard:
                self._commit_unreported(number, shard, footer)
        for number in unreported if last else []:
            if not self.ended[number]:
                shard = OpenShard(self.pending[number].as_py())
                self._end(number, shard, self.failures.get(number) or self.reason or DIED)
        self.open.clear()

    def close(self) -> None:
        """End the run, in whatever way it ended, when its actors are gone; then write the rest of the ledger.

        Files that the actors committed without a report count. A shard that was begun and has not ended has failed.
        A shard that was never begun has no row: nothing is known of it, and the next run finds it pending. If very
        many shards are left, only those are looked up that were reported in part; the next run enters the other
        committed ones.
        """
        left = self.list_left().tolist()
        numbers = left if len(left) <= MOST_SETTLED else sorted({number for number, _ in self.open})
        with self.summary.remembering_errors():
            for number, footer in self._read_finished(numbers):
                if footer["run_id"] == self.summary.run_id:
                    known = self.open.pop((number, footer["source_etag"]), None)
                    self._commit_unreported(number, known or OpenShard(self.pending[number].as_py()), footer)
        for (number, _), shard in list(self.open.items()):
            if not self.ended[number]:
                shard.counts = Counts()
                self._end(number, shard, CUT_SHORT)
        with self.summary.remembering_errors():
            self.flush()

    def _commit_unreported(self, number: int, shard: OpenShard, footer: dict[str, Any]) -> None:
        """Count a shard by its table, since nobody reported the shard as a whole. `footer`: a row of `FOOTERS`."""
        uri = label_uri(self.output, self.summary.model_id, footer["file"], footer["file_etag"])
        table = storage.read_bytes(uri)
        shard.counts = Counts.count_rows(read_table(table, COUNTED_COLUMNS))
        shard.source_uri, shard.source_size = footer["source_uri"], footer["source_size"]
        shard.source_etag = footer["source_etag"]
        shard.file, shard.file_size, shard.file_etag = footer["file"], footer["file_size"], footer["file_etag"]
        self._end(number, shard, None)

    def _read_finished(self, numbers: list[int]) -> list[tuple[int, dict[str, Any]]]:
        """The footers of the tables that these shards have in the output, as rows of `FOOTERS`, each with the
        shard's number.
        """
        if not numbers:
            return []
        paths = table_paths(self.pending.take(pa.array(numbers, pa.int64())))
        files = label_tables.list_versions(self.output, self.summary.model_id, self.partition)
        files = files.filter(pc.is_in(files["path"], paths))
        footers = read_footers(self.output, self.summary.model_id, files)
        number_of = dict(zip(paths.to_pylist(), numbers, strict=True))
        return [(number_of[footer["file"]], footer) for footer in footers.to_pylist()]

    def _end(self, number: int, shard: OpenShard, failure: str | None) -> None:
        """Enter a shard into the ledger and the summary. `failure`: None for a committed shard."""
        self.ended[number] = True
        self.failures.pop(number, None)
        self.open.pop((number, shard.source_etag or ""), None)
        if failure is None:
            self.summary.num_committed += 1
            self.summary.counts.add(shard.counts)
            self._count_left_out(shard)
        else:
            self.summary.num_failed += 1
            if len(self.summary.failed) < NAMED:
                self.summary.failed[shard.shard] = failure
        status = "committed" if failure is None else "failed"
        row = shard.to_row(self.summary.run_id, self.summary.model_id, status, failure)
        self.summary.findings.add_shard(row)
        self.on_end(status)
        self.rows.append(row)

    def _count_left_out(self, shard: OpenShard) -> None:
        left_out = shard.left_out or []
        self.summary.left_out.add(left_out, shard.shard + ": ")
        if not shard.counts.num_images:
            self.summary.num_without_images += 1
            if len(self.summary.without_images) < NAMED:
                entries = ", ".join(f"{entry['suffix']} {entry['num_files']:,}" for entry in left_out)
                self.summary.without_images[shard.shard] = entries and f"its members are {entries}"

    def flush(self) -> None:
        """Write the rows that wait, in files of `ROWS_A_FILE`.

        Raises the errors of the store; rows that are not written wait on.
        """
        self.flushed_s = time.monotonic()
        while self.rows:
            part, rest = self.rows[:ROWS_A_FILE], self.rows[ROWS_A_FILE:]
            ledger.write_shards(self.output, f"{self.summary.run_id}-{self.num_files:05}", part)
            self.rows, self.num_files = rest, self.num_files + 1
