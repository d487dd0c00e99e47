"""The summary of a run: what it found, what it did, and the exit status that follows.

In: the plan, and the tally's counts. Out: `Summary`, for the user, the run's row and the report.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import CaughtError
from pipeline.formats.left_out import LeftOut
from pipeline.parse import find_cost
from pipeline.report.findings import Findings
from pipeline.store.retry import describe_error, without_retries
from pipeline.tables.counts import Counts
from pipeline.tables.history import Expected
from pipeline.tables.ledger_rows import RunRow, to_columns

FEW_ROWS = 200  # of a table; tables of fewer rows cost more to open than to read
NAMED = 50  # failed shards that the summary and the report name; the ledger has all
NOTED = 5  # shards without an image, and damaged files, that the notes name


@dataclass
class Summary:
    """What a run did.

    `num_skipped`: shards that were done before. `num_orphans`: tables of shards that are no longer in the input.
    `num_gone`: such tables that left the table of a lake. `num_beyond`: shards that --limit-shards left out.
    `meaningless`: the weights are untrained. `num_misplaced`: tables in folders that engines take for columns; this
    run removed `num_replaced` of them. `counts`: of the committed images. `night`: images, and rejected images, of
    the runs of this night before this run. `failed`: reason by shard, of the first `NAMED` that failed. `cpu_s`,
    `gpu_s`: seconds that were spent, also on images that were not committed. `held_cpu_s`, `held_gpu_s`: seconds
    for which the nodes of the run were there, busy or not, times their CPUs and GPUs. `prices`: of an hour of a
    `cpu` and of a `gpu`; empty if none is given. `num_labelled`: images that were reported. `num_slots`: images
    that the batches of the device had room for. `num_moved`: blocks, of `num_blocks`, that were labelled on another
    node than decoded. `left_out`: files of the input, and members of the committed shards, that have no row.
    `without_images`: shards that were committed and hold no image, with their left-out members, of the first
    `NAMED`. `damaged`: files of the output, except tables, that could not be understood. `unrecorded`: why the
    run's row, the rows of its shards or its report are missing, if they are. `expected`, `num_requests`: of a dry
    run; the requests are reads and writes of the shards and their tables. `findings`: what the report shows. `row`:
    of the table `runs`, once the run has ended.
    """

    run_id: str
    model_id: str
    num_skipped: int
    num_pending: int
    pending_bytes: int
    num_orphans: int
    meaningless: bool
    num_beyond: int = 0
    num_gone: int = 0
    num_misplaced: int = 0
    num_replaced: int = 0
    num_committed: int = 0
    counts: Counts = field(default_factory=Counts)
    night: tuple[int, int] = (0, 0)
    num_failed: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_s: float = 0.0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    held_cpu_s: float = 0.0
    held_gpu_s: float = 0.0
    prices: dict[str, float] = field(default_factory=dict)
    input_root: str = ""
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
    expected: Expected | None = None
    num_requests: tuple[int, int] = (0, 0)
    findings: Findings = field(default_factory=Findings)
    row: RunRow | None = None

    @contextmanager
    def remembering_errors(self) -> Iterator[None]:
        """Go on after an error in the context: what was labelled stays labelled. `unrecorded` keeps the first error."""
        with CaughtError() as caught:
            yield
        if caught.error is not None and not self.unrecorded:
            self.unrecorded = describe_error(caught.error)

    @contextmanager
    def counting_held(self, num_cpus: float, num_gpus: int) -> Iterator[None]:
        """Add the time that the context takes to `held_cpu_s` and `held_gpu_s`."""
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - begun
            self.held_cpu_s += seconds * num_cpus
            self.held_gpu_s += seconds * num_gpus

    @property
    def cost(self) -> float | None:
        """What the held CPUs and GPUs cost, in the currency of `prices`; None without prices."""
        return find_cost(self.prices, self.held_cpu_s, self.held_gpu_s)

    @contextmanager
    def trying_once(self) -> Iterator[None]:
        """Try nothing again in the context if the store did not take the record before: each call would wait in vain.
        """
        with without_retries() if self.unrecorded else nullcontext():
            yield

    def exit_code(self, max_rejected: float) -> int:
        """0: all is done. 1: a shard failed, or the record is missing. 3: a larger share of images than
        `max_rejected` is rejected, of the whole night.
        """
        if self.num_failed or self.unrecorded:
            return 1
        num_images, num_rejected = self.count_night()
        return 3 if num_rejected > max_rejected * num_images else 0

    def count_night(self) -> tuple[int, int]:
        """Images, and rejected images, of this run and of `night`."""
        num_images, num_rejected = self.night
        return num_images + self.counts.num_images, num_rejected + self.counts.rejected.total()

    @property
    def figures(self) -> dict[str, Any]:
        """The row of the run, for programs; before it has one, what the plan says. With the failed shards that are
        named here, and the notes."""
        if self.row is None:
            known: dict[str, Any] = {
                "run_id": self.run_id, "model_id": self.model_id, "num_pending": self.num_pending,
                "pending_bytes": self.pending_bytes, "num_skipped": self.num_skipped, "num_orphans": self.num_orphans,
                "num_reads": self.num_requests[0], "num_writes": self.num_requests[1],
                "expected": dataclasses.asdict(self.expected) if self.expected else None}
        else:
            known = to_columns(self.row)
            known |= {name: json.loads(known[name]) for name in ("versions", "config")}
        return known | {"failed": self.failed, "unrecorded": self.unrecorded, "notes": self.notes}

    @property
    def notes(self) -> list[str]:
        """What the user should know, a sentence each."""
        notes = [*self.left_out.sentences(), *self._note_shards_without_images(), *self._note_damage(),
                 *self._note_tables()]
        if self.num_beyond:
            notes.append(f"{self.num_beyond:,} more shards are in the input: --limit-shards left them out")
        if self.meaningless:
            notes.append("these weights are untrained: the labels mean nothing")
        notes += filter(None, (self.runner_note, self.precision_note))
        num_tables = self.num_committed - self.num_without_images
        if num_tables > 1 and self.counts.num_images < FEW_ROWS * num_tables:
            notes.append(f"the tables have {self.counts.num_images // num_tables} rows on average, "
                         "which is slow to query: jobs/pack.py makes larger shards")
        return notes

    def _note_shards_without_images(self) -> Iterator[str]:
        for shard, members in list(self.without_images.items())[:NOTED]:
            yield f"{shard} holds no image{members and ': ' + members}"
        if self.num_without_images > NOTED:
            yield (f"{self.num_without_images - NOTED:,} more shards hold no image: "
                   "num_images is 0 in the table shards/")

    def _note_damage(self) -> Iterator[str]:
        paths = sorted({*self.damaged})
        for path in paths[:NOTED]:
            yield f"{path} of the output is damaged and was passed over: it is only memory; " + (
                "it was written anew" if path == "input.json" else "remove it")
        if len(paths) > NOTED:
            yield f"{len(paths) - NOTED:,} more files of the ledger are damaged"

    def _note_tables(self) -> Iterator[str]:
        if self.num_orphans:
            yield (f"{self.num_orphans:,} tables are of shards that are no longer in the input; "
                   "label-images prune removes them")
        if self.num_gone:
            yield (f"{self.num_gone:,} tables of shards that are no longer in the input have left the newest version "
                   "of the table")
        if self.num_replaced:
            yield (f"{self.num_replaced:,} tables were removed from folders that engines take for columns: "
                   "their shards have new ones")
        if num_left := self.num_misplaced - self.num_replaced:
            yield (f"{num_left:,} tables are in folders that engines take for columns: a run removes those "
                   "whose shards have new ones, if the store lets it")
