"""What a run did: reports of blocks -> rows of the `shards` table, and the summary's counts.

In: rows of `REPORT`. Out: a `Summary`, and the ledger of shards under `<output>/shards/`.
A shard is committed when all its segments of one version are reported and one of them brought the file; whatever nobody
reported is settled by looking at the output itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.formats.left_out import LeftOut
from pipeline.report.findings import Findings
from pipeline.store import storage
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import describe_error
from pipeline.tables import ledger
from pipeline.tables.counts import COUNTED_COLUMNS, Counts
from pipeline.tables.output import labels_uri
from pipeline.tables.table_paths import table_path, table_paths

FLUSH_LEDGER_S = 60.0
FEW_ROWS = 200
NAMED = 50  # failed shards that the summary and the report name; the ledger has all
NOTED = 5  # shards without an image that the notes name
LOOKED_AT = 20_000  # shards at the end of a run that was ended early
REASONS = 10_000  # of failures that may pass: 200 bytes each
ROWS_EACH = 10_000  # of a file of the ledger
DIED = "the process that read or labelled it died, or its node did"


@dataclass
class Summary:
    """`failed`: reason by shard, of the first `NAMED` that failed. `counts`: of the committed images.

    `cpu_s`, `gpu_s`: spent, whatever came of it. `num_slots`: images that the device's batches had room for. `num_moved`: of
    `num_blocks` those that were labelled on another node than decoded. `unrecorded`: why the run's row, its shards' rows or its
    report are missing, if they are. `findings`: what is worth showing of it. `left_out`: what of the input, and of the shards that were
    committed, has no row. `without_images`: shards that were committed and hold no image, and what is left out of them, of the first
    `NAMED`. `damaged`: files of the output, but for tables, that could not be understood. `num_misplaced`: tables in folders that
    engines take for columns, `num_replaced` of which this run removed.
    """

    run_id: str
    model_id: str
    num_skipped: int
    num_pending: int
    pending_bytes: int
    num_orphans: int
    meaningless: bool
    num_misplaced: int = 0
    num_replaced: int = 0
    num_committed: int = 0
    counts: Counts = field(default_factory=Counts)
    num_failed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    device: str = ""
    precision: str = ""
    runner: str = ""
    runner_note: str = ""
    precision_note: str = ""
    hardware: str = ""
    num_labelled: int = 0
    num_slots: int = 0
    num_blocks: int = 0
    num_moved: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)
    num_without_images: int = 0
    without_images: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    unrecorded: str = ""
    expected_s: float | None = None  # of a dry run
    findings: Findings = field(default_factory=Findings)

    @property
    def notes(self) -> list[str]:
        """What the user should know, a sentence each."""
        told = self.left_out.sentences()
        for shard, what in list(self.without_images.items())[:NOTED]:
            told.append(f"{shard} holds no image{what and ': ' + what}")
        if self.num_without_images > NOTED:
            told.append(f"{self.num_without_images - NOTED:,} more shards hold no image: num_images is 0 in the table shards/")
        for path in sorted({*self.damaged})[:NOTED]:
            told.append(f"{path} of the output is damaged and was passed over: it is only memory; " + (
                "it was written anew" if path == "input.json" else "remove it"))
        if len({*self.damaged}) > NOTED:
            told.append(f"{len({*self.damaged}) - NOTED:,} more files of the ledger are damaged")
        if self.num_orphans:
            told.append(f"{self.num_orphans:,} tables are of shards that are no longer in the input")
        if self.num_replaced:
            told.append(f"{self.num_replaced:,} tables were removed from folders that engines take for columns: their shards have new ones")
        if left := self.num_misplaced - self.num_replaced:
            told.append(f"{left:,} tables are in folders that engines take for columns: a run removes those whose shards have new ones, "
                        "if the store lets it")
        if self.meaningless:
            told.append("these weights are untrained: the labels mean nothing")
        told += filter(None, (self.runner_note, self.precision_note))
        tables = self.num_committed - self.num_without_images
        if tables > 1 and self.counts.num_images < FEW_ROWS * tables:  # opening costs more than reading
            told.append(f"the tables have {self.counts.num_images // tables} rows on average, which is slow to query: "
                        "jobs/pack.py makes larger shards")
        return told

    def exit_code(self, max_rejected: float) -> int:
        """0 done, 1 a shard failed, 3 more rejected than allowed."""
        if self.num_failed or self.unrecorded:
            return 1
        return 3 if self.counts.rejected.total() > max_rejected * self.counts.num_images else 0


class Tally:
    """Counts what the blocks of a run report. What it keeps for a shard that has ended is one byte.

    `ended`: bool for each pending shard. `reason`: why the last attempt stopped, if it did.

    Args:
        pending: the paths of the run's shards; a report's `number` is an index of it.
        on_end: told the status of each shard that ends.
    """

    def __init__(self, output: str, summary: Summary, pending: pa.Array, on_end: Callable[[str], None]) -> None:
        self.output, self.summary, self.pending, self.on_end = output, summary, pending, on_end
        self.label_cpus, self.label_gpus = 0.0, 0.0  # that a labeller keeps busy
        self.begun = time.monotonic()
        self.ended = np.zeros(len(pending), bool)
        self.open: dict[tuple[int, str], dict[str, Any]] = {}  # by shard and version: something was reported, not all
        self.failures: dict[int, str] = {}  # that may pass, of some of the shards that are not ended
        self.last_attempt = False
        self.reason: str | None = None
        self.rows: list[dict[str, Any]] = []
        self.num_parts, self.num_refused, self.flushed = 0, 0, time.monotonic()

    def left(self) -> np.ndarray[Any, Any]:
        """The numbers of the shards that have not ended."""
        return np.flatnonzero(~self.ended)

    def add(self, report: dict[str, Any]) -> None:
        """Count one report."""
        summary = self.summary
        summary.findings.add(report, time.monotonic() - self.begun)
        summary.cpu_s += report["label_s"] * self.label_cpus
        summary.gpu_s += report["label_s"] * self.label_gpus
        summary.num_slots += report["num_slots"]
        summary.num_blocks += report["num_blocks"]
        summary.num_moved += report["num_moved"]
        if report["runner"]:
            summary.precision, summary.runner = report["precision"], report["runner"]
            summary.runner_note = summary.runner_note or report["runner_note"]
        for segment in report["segments"]:
            summary.cpu_s += segment["decode_s"]
            summary.num_labelled += segment["num_images"]
            if not self.ended[segment["number"]]:  # else it failed already, in another of its segments
                self._add(segment)
        if time.monotonic() - self.flushed > FLUSH_LEDGER_S or len(self.rows) >= ROWS_EACH * (1 + self.num_refused):
            try:
                self._flush()
                self.num_refused = 0
            except Exception as error:  # noqa: BLE001  # the rows are kept for the next time
                self.num_refused += 1
                logging.getLogger(__name__).warning("the ledger is not written: %s", describe_error(error))

    def _add(self, segment: dict[str, Any]) -> None:
        number, key = segment["number"], (segment["number"], segment["etag"])
        row = self.open.get(key)
        if row is None:
            row = self.open[key] = self._row(number) | {
                "source_uri": segment["uri"], "source_size": segment["size"], "source_etag": segment["etag"]}
        row["image_bytes"] += segment["num_bytes"]
        row["decode_s"] += segment["decode_s"]
        row["label_s"] += segment["label_s"]
        if segment["failure"] is None:
            row["counts"].add(Counts.read(segment))
        if segment["end"]:
            row |= {"total": segment["first"] + segment["num_images"], "left_out": segment["left_out"]}
        if segment["file_size"] is not None:
            row |= {"file": table_path(segment["shard"]), "file_size": segment["file_size"], "file_etag": segment["file_etag"]}
        if segment["failure"] is not None and segment["retryable"] and not self.last_attempt:
            del self.open[key]
            if len(self.failures) < REASONS:
                self.failures[number] = segment["failure"]
        elif segment["failure"] is not None:
            self._end(number, row, "failed", segment["failure"])
        elif "file" in row and row["counts"].num_images == row.get("total"):
            self._end(number, row, "committed", None)

    def settle(self, *, last: bool) -> None:
        """End of an attempt: what nobody reported is committed if the output says so; else failed, if it was the last."""
        silent = self.left().tolist()
        for number, entry in self._finished(silent):
            row = self.open.get((number, entry["source_etag"]))
            if row:
                self._commit(number, row, entry)
        for number in silent if last else []:
            if not self.ended[number]:
                self._end(number, self._row(number), "failed", self.failures.get(number) or self.reason or DIED)
        self.open.clear()

    def close(self) -> None:
        """End of the run, whatever ended it, when its actors are gone: what they committed without a report counts, what was begun and
        has not ended has failed; write the rest of the ledger.

        A shard that was never begun has no row: nothing is known of it, and the next run finds it pending. Of very many shards only
        those are looked at that were reported in part; what else was committed the next run enters.
        """
        left = self.left().tolist()
        try:
            for number, entry in self._finished(left if len(left) <= LOOKED_AT else sorted({number for number, _ in self.open})):
                if entry["run_id"] == self.summary.run_id:
                    row = self.open.pop((number, entry["source_etag"]), None) or self._row(number)
                    self._commit(number, row | {name: entry[name] for name in ("source_uri", "source_size", "source_etag")}, entry)
        except Exception as error:  # noqa: BLE001  # each store has its own exceptions
            self.summary.unrecorded = describe_error(error)
        for (number, _), row in list(self.open.items()):
            if not self.ended[number]:
                self._end(number, row | {"counts": Counts()}, "failed", "the run ended before all its rows were written")
        try:
            self._flush()
        except Exception as error:  # noqa: BLE001  # each store has its own exceptions
            self.summary.unrecorded = describe_error(error)

    def _row(self, number: int) -> dict[str, Any]:
        return {"run_id": self.summary.run_id, "shard": self.pending[number].as_py(), "model_id": self.summary.model_id,
                "counts": Counts(), "image_bytes": 0, "decode_s": 0.0, "label_s": 0.0}

    def _commit(self, number: int, row: dict[str, Any], entry: dict[str, Any]) -> None:
        """A shard that nobody reported as a whole: its table counts. `entry`: a row of `FOOTERS`."""
        table = storage.read_bytes(labels_uri(self.output, self.summary.model_id, row["shard"]))
        counts = Counts.of(read_table(table, COUNTED_COLUMNS))
        self._end(number, row | {name: entry[name] for name in ("file", "file_size", "file_etag")} | {"counts": counts}, "committed", None)

    def _finished(self, numbers: list[int]) -> list[tuple[int, dict[str, Any]]]:
        """What the output's tables of these shards say of themselves, as rows of `FOOTERS`, each with the shard's number."""
        if not numbers:
            return []
        names = table_paths(self.pending.take(pa.array(numbers, pa.int64())))
        files = ledger.list_labels(self.output, self.summary.model_id)
        files = files.filter(pc.is_in(files["path"], names))
        found = ledger.read_footers(self.output, self.summary.model_id, files)
        number_of = dict(zip(names.to_pylist(), numbers, strict=True))
        return [(number_of[entry["file"]], entry) for entry in found.to_pylist()]

    def _end(self, number: int, row: dict[str, Any], status: str, failure: str | None) -> None:
        self.ended[number] = True
        self.failures.pop(number, None)
        self.open.pop((number, row.get("source_etag", "")), None)
        if failure is None:
            self.summary.num_committed += 1
            self.summary.counts.add(row["counts"])
            self._count_left_out(row)
        else:
            self.summary.num_failed += 1
            if len(self.summary.failed) < NAMED:
                self.summary.failed[row["shard"]] = failure
        left_out = row.get("left_out")
        told = row | row["counts"].columns() | {
            "status": status, "failure": failure, "labelled_at": datetime.now(UTC),
            "num_left_out": None if left_out is None else sum(entry["num_files"] for entry in left_out)}
        ended = {name: told.get(name) for name in ledger.SHARDS.names}
        self.summary.findings.add_shard(ended)
        self.on_end(status)
        self.rows.append(ended)

    def _count_left_out(self, row: dict[str, Any]) -> None:
        left_out = row.get("left_out") or []
        self.summary.left_out.add(left_out, row["shard"] + ": ")
        if not row["counts"].num_images:
            self.summary.num_without_images += 1
            if len(self.summary.without_images) < NAMED:
                entries = ", ".join(f"{entry['suffix']} {entry['num_files']:,}" for entry in left_out)
                self.summary.without_images[row["shard"]] = entries and f"its members are {entries}"

    def _flush(self) -> None:
        self.flushed = time.monotonic()
        while self.rows:
            part, rest = self.rows[:ROWS_EACH], self.rows[ROWS_EACH:]
            ledger.write(self.output, "shards", f"{self.summary.run_id}-{self.num_parts:05}", part, ledger.SHARDS)
            self.rows, self.num_parts = rest, self.num_parts + 1
