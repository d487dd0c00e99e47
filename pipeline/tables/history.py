"""The runs before this run: which of them died, what they left unrecorded, and which run last labelled something.

In: the `runs` and `shards` tables, and footers of finished files that the ledger does not know. Out: those tables,
corrected. Only the holder of the output's lease may correct them: without the lease, a run that seems dead may be at
work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from pipeline.config import check_uri
from pipeline.parse import find_cost
from pipeline.store.explain import explaining_errors
from pipeline.tables import ledger
from pipeline.tables.ledger_rows import RunRow, ShardRow
from pipeline.tables.table_paths import SUFFIX, shard_of

RUNS_BACK = 50  # runs that are searched for one that labelled something


def record_unlogged_tables(output: str, model_id: str, footers: pa.Table, run_id: str) -> None:
    """Write the ledger's rows for files whose run was ended before it could, and count the files in the row of that
    run.

    The seconds of these shards are not known. `labelled_at` is the time when their run began.

    Args:
        footers: `FOOTERS` of the files that the ledger does not know.
        run_id: of this run; it names the new file of the ledger.
    """
    rows = sorted((row for row in footers.to_pylist() if row["run_id"]), key=itemgetter("run_id"))
    for author, of_run in groupby(rows, itemgetter("run_id")):
        shards = [_describe_unlogged(row, shard, model_id) for row in of_run
                  if (shard := shard_of(row["file"])) is not None]
        ledger.write_shards(output, f"{author}-found-by-{run_id}", shards)
        for run in ledger.read_runs(output, author + SUFFIX, []):
            num_committed, num_images, num_rejected = _count_committed(ledger.read_shards(output, author, []))
            # The row of a killed run is counted by `mark_killed_runs`; a run that lost its ledger has counted its
            # tables.
            if run.status in ("done", "failed") and num_committed > (run.num_committed or 0):
                ledger.write_run(output, replace(run, num_committed=num_committed, num_images=num_images,
                                                 num_rejected=num_rejected))


def _describe_unlogged(footer: dict[str, Any], shard: str, model_id: str) -> ShardRow:
    """The row of a shard that only the footer of its file tells of. `footer`: a row of `FOOTERS`."""
    return ShardRow(
        run_id=footer["run_id"], shard=shard, source_uri=footer["source_uri"], source_size=footer["source_size"],
        source_etag=footer["source_etag"], model_id=model_id, status="committed", failure=None,
        num_images=footer["num_images"], num_rejected=footer["num_rejected"], rejected=None, num_left_out=None,
        left_out=None, image_bytes=None, decode_s=None, label_s=None, file=footer["file"],
        file_size=footer["file_size"], file_etag=footer["file_etag"], labelled_at=_begin_time(footer["run_id"]))


def mark_killed_runs(output: str, run_id: str, damaged: list[str]) -> None:
    """Mark runs that never ended as killed, and count the shards that the ledger has of them.

    Args:
        run_id: of this run; only runs before it are marked.
        damaged: gets the paths of files of the ledger that cannot be read.
    """
    for run in _list_newest_first(output, run_id, damaged):
        if run.status != "running":
            return
        shards = ledger.read_shards(output, run.run_id, damaged)
        num_committed, num_images, num_rejected = _count_committed(shards)
        ledger.write_run(output, replace(
            run, status="killed", num_committed=num_committed, num_failed=len(shards) - num_committed,
            num_images=num_images, num_rejected=num_rejected, rejected=None, labels=None, confidence=None, seconds=None,
            images_per_s=None, cpu_s=None, gpu_s=None, held_cpu_s=None, held_gpu_s=None, cost=None))


def _count_committed(shards: list[ShardRow]) -> tuple[int, int, int]:
    """The committed shards, their images, and their rejected images. A shard counts once."""
    committed = {row.shard: row for row in shards if row.status == "committed"}.values()
    num_images = sum(row.num_images or 0 for row in committed)
    return len(committed), num_images, sum(row.num_rejected or 0 for row in committed)


def read_run_before(output: str, run_id: str) -> RunRow | None:
    """The last run before `run_id` that labelled something and ended, among the last `RUNS_BACK` runs."""
    for _, run in zip(range(RUNS_BACK), _list_newest_first(output, run_id, []), strict=False):
        if run.num_images and run.labels:
            return run
    return None


@dataclass(frozen=True)
class Expected:
    """What a run may have to do, and how long it may take. `cost`: at the prices of the dry run; None without prices.
    """

    num_images: int
    seconds: float
    cost: float | None


def expect_run(output: str, run_id: str, pending_bytes: int, prices: Mapping[str, float]) -> Expected | None:
    """What it takes to label so many bytes of shards, if all goes as in the run before; None if no run tells."""
    run = read_run_before(output, run_id)
    if run is None or not run.pending_bytes or run.seconds is None or run.status != "done":
        return None
    times = pending_bytes / run.pending_bytes
    cost = None
    if run.held_cpu_s is not None and run.held_gpu_s is not None:  # older runs do not say
        cost = find_cost(prices, run.held_cpu_s * times, run.held_gpu_s * times)
    return Expected(round((run.num_images or 0) * times), run.seconds * times, cost)


def count_night(output: str, run_id: str, model_id: str, run_name: str | None) -> tuple[int, int]:
    """Images, and rejected images, of the runs of this night before `run_id`: of all runs of this name by the model;
    without a name, of the model's last run that labelled something."""
    num_images = num_rejected = 0
    for run in _list_newest_first(output, run_id, [], run_name):
        if run.model_id == model_id and run.num_images:
            num_images += run.num_images
            num_rejected += run.num_rejected or 0
            if run_name is None:
                break
    return num_images, num_rejected


def _name_of(run_id: str) -> str:
    """The --run-name in a run's id; "" if there is none."""
    return "-".join(run_id.split("-")[1:-1])


def read_settings(output: str, model_id: str | None) -> dict[str, Any]:
    """The config of the newest run by a model, or by any model; empty if there is no run.

    Raises:
        UserError: the output cannot be read.
    """
    check_uri("output", output)
    with explaining_errors("--output", output):
        for run in _list_newest_first(output, "~", []):  # "~" sorts behind all run_ids, which begin with the time
            if model_id in (None, run.model_id) and run.config is not None:
                config: dict[str, Any] = json.loads(run.config)
                return config
    return {}


def _list_newest_first(output: str, run_id: str, damaged: list[str], name: str | None = None) -> Iterator[RunRow]:
    """The runs before `run_id`, the newest first. `name`: only runs of this --run-name.

    A file of a month sorts before the files of its single runs.
    """
    for path in sorted(ledger.list_table(output, "runs"), reverse=True):
        if path < run_id + SUFFIX and ("T" not in path or name in (None, _name_of(path))):
            rows = sorted(ledger.read_runs(output, path, damaged), key=lambda run: run.run_id, reverse=True)
            yield from (run for run in rows if run.run_id < run_id and name in (None, _name_of(run.run_id)))


def _begin_time(run_id: str) -> datetime:
    return datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
