"""What a run did: reports of batches -> rows of the `shards` table, and the summary's counts.

In: rows of `REPORT`. Out: a `Summary`, and the ledger of shards under `<output>/shards/`.
A shard is committed when all its batches of one version are reported and one of them brought the file; whatever nobody
reported is settled by looking at the output itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import ledger, storage
from pipeline.counts import COUNTED_COLUMNS, Counts
from pipeline.findings import Findings
from pipeline.output import labels_uri
from pipeline.parquet import read_table
from pipeline.retry import told

FLUSH_LEDGER_S = 60.0
FEW_ROWS = 200
DIED = "the process that read or labelled it died, or its node did"


@dataclass
class Summary:
    """`failed`: reason by shard. `counts`: of the committed images. `cpu_s`, `gpu_s`: spent, whatever came of it.

    `unrecorded`: why the run's row, its shards' rows or its report are missing, if they are. `findings`: what is worth
    showing of it.
    """

    run_id: str
    model_id: str
    num_skipped: int
    num_pending: int
    pending_bytes: int
    num_orphans: int
    meaningless: bool
    num_committed: int = 0
    counts: Counts = field(default_factory=Counts)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    device: str = ""
    precision: str = ""
    hardware: str = ""
    unrecorded: str = ""
    expected_s: float | None = None  # of a dry run
    findings: Findings = field(default_factory=Findings)

    @property
    def notes(self) -> list[str]:
        """What the user should know, a sentence each."""
        told = []
        if self.num_orphans:
            told.append(f"{self.num_orphans:,} tables are of shards that are no longer in the input")
        if self.meaningless:
            told.append("these weights are untrained: the labels mean nothing")
        if self.num_committed > 1 and self.counts.num_images < FEW_ROWS * self.num_committed:  # opening costs more than reading
            told.append(f"the tables have {self.counts.num_images // self.num_committed} rows on average, which is slow to query: "
                        "jobs/pack.py makes larger shards")
        return told

    def exit_code(self, max_rejected: float) -> int:
        """0 done, 1 a shard failed, 3 more rejected than allowed."""
        if self.failed or self.unrecorded:
            return 1
        return 3 if self.counts.rejected.total() > max_rejected * self.counts.num_images else 0


class Tally:
    """Counts what the batches of a run report. `reason`: why the last attempt stopped, if it did.

    Args:
        label_cpus, label_gpus: that a labeller keeps busy.
        on_end: told the status of each shard that ends.
    """

    def __init__(self, output: str, summary: Summary, label_cpus: float, label_gpus: float,
                 on_end: Callable[[str], None]) -> None:
        self.output, self.summary, self.on_end = output, summary, on_end
        self.label_cpus, self.label_gpus = label_cpus, label_gpus
        self.begun = time.monotonic()
        self.open: dict[tuple[str, str], dict[str, Any]] = {}  # by shard and version: something was reported, not all
        self.ended: set[str] = set()
        self.failures: dict[str, str] = {}  # that may pass, of shards that are not ended
        self.reason: str | None = None
        self.rows: list[dict[str, Any]] = []
        self.num_parts, self.flushed = 0, time.monotonic()

    def add(self, report: dict[str, Any]) -> None:
        """Count one report of a batch."""
        self.summary.findings.add(report, time.monotonic() - self.begun)
        shard, key = report["shard"], (report["shard"], report["etag"])
        self.summary.cpu_s += report["decode_s"] + report["label_s"] * self.label_cpus
        self.summary.gpu_s += report["label_s"] * self.label_gpus
        if shard in self.ended:
            return  # the shard failed already, in another of its batches
        row = self.open.setdefault(key, self._row(shard) | {
            "source_uri": report["uri"], "source_size": report["size"], "source_etag": report["etag"]})
        row["counts"].add(Counts.read(report))
        row["image_bytes"] += report["num_bytes"]
        row["decode_s"] += report["decode_s"]
        row["label_s"] += report["label_s"]
        if report["end"]:
            row["total"] = report["first"] + report["num_images"]
        if report["file_size"] is not None:
            row |= {"file": shard + ".parquet", "file_size": report["file_size"], "file_etag": report["file_etag"]}
        self.summary.precision = report["precision"]
        if report["failure"] is not None and report["passing"]:
            self.failures[shard] = report["failure"]
        elif report["failure"] is not None:
            self._end(row, "failed", report["failure"])
        elif "file" in row and row["counts"].num_images == row.get("total"):
            self._end(row, "committed", None)
        if time.monotonic() - self.flushed > FLUSH_LEDGER_S:
            try:
                self._flush()
            except Exception as error:  # noqa: BLE001  # the rows are kept for the next time
                logging.getLogger(__name__).warning("the ledger is not written: %s", told(error))

    def settle(self, attempted: list[str], *, last: bool) -> None:
        """End of an attempt: what nobody reported is committed if the output says so; else failed, if it was the last."""
        silent = [shard for shard in attempted if shard not in self.ended]
        finished = self._finished([shard + ".parquet" for shard in silent]) if silent else {}
        for shard in silent:
            entry = finished.get(shard + ".parquet")
            row = self.open.get((shard, entry["source_etag"])) if entry else None
            if entry and row:
                table = storage.read_bytes(labels_uri(self.output, self.summary.model_id, shard))
                row |= entry | {"counts": Counts.of(read_table(table, COUNTED_COLUMNS))}
                self._end(row, "committed", None)
            elif last:
                self._end(self._row(shard), "failed", self.failures.get(shard) or self.reason or DIED)
        self.open.clear()

    def close(self, pending: list[str]) -> None:
        """End of the run, whatever ended it: what is not ended has failed; write the rest of the ledger."""
        for shard in pending:
            if shard not in self.ended:
                self._end(self._row(shard), "failed", "the run ended before all its rows were written")
        try:
            self._flush()
        except Exception as error:  # noqa: BLE001  # each store has its own exceptions
            self.summary.unrecorded = told(error)

    def _row(self, shard: str) -> dict[str, Any]:
        return {"run_id": self.summary.run_id, "shard": shard, "model_id": self.summary.model_id,
                "counts": Counts(), "image_bytes": 0, "decode_s": 0.0, "label_s": 0.0}

    def _finished(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """What the output's files of these names say of themselves, as rows of `FOOTERS`."""
        files = ledger.list_labels(self.output, self.summary.model_id)
        files = files.filter(pc.is_in(files["path"], pa.array(names)))
        found = ledger.read_footers(self.output, self.summary.model_id, files)
        return {entry["file"]: entry for entry in found.to_pylist()}

    def _end(self, row: dict[str, Any], status: str, failure: str | None) -> None:
        self.ended.add(row["shard"])
        if failure is None:
            self.summary.num_committed += 1
            self.summary.counts.add(row["counts"])
        else:
            self.summary.failed[row["shard"]] = failure
        ended = {**row, **row["counts"].columns(), "status": status, "failure": failure, "labelled_at": datetime.now(UTC)}
        self.summary.findings.add_shard(ended)
        self.on_end(status)
        self.rows.append(ended)

    def _flush(self) -> None:
        self.flushed = time.monotonic()
        if self.rows:
            name = f"{self.summary.run_id}-{self.num_parts:05}"
            ledger.write(self.output, "shards", name, self.rows, ledger.SHARDS)
            self.rows, self.num_parts = [], self.num_parts + 1
