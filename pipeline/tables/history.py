"""The runs before this one: which of them died, what they left, and which last labelled something.

In: the `runs` and `shards` tables, and what finished files say that the ledger does not know. Out: those tables put right.
Only the holder of the output's lease may do so: without it, a run that seems dead may be at work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from pipeline.config import check_uri
from pipeline.store.explain import explaining_errors
from pipeline.tables import ledger
from pipeline.tables.table_paths import shard_of

RUNS_BACK = 50  # looked through for one that labelled something


def record_unlogged_tables(output: str, model_id: str, footers: pa.Table, run_id: str) -> None:
    """Write the ledger's rows for files whose run was ended before it could, and count them in its own row.

    Their seconds are not known; `labelled_at` is when their run began.
    """
    rows = sorted((row for row in footers.to_pylist() if row["run_id"]), key=itemgetter("run_id"))
    for author, of_run in groupby(rows, itemgetter("run_id")):
        entries = [row | {"shard": shard, "model_id": model_id, "status": "committed", "labelled_at": _begun(author)}
                   for row in of_run if (shard := shard_of(row["file"])) is not None]
        ledger.write(output, "shards", f"{author}-found-by-{run_id}", entries, ledger.SHARDS)
        for row in ledger.read_rows(output, "runs", author + ".parquet", ledger.RUNS, []).to_pylist():
            counts = _counted(ledger.read_shards(output, author, []))
            # of those that were killed all is counted anew; a run that lost its ledger has counted its tables already
            if row["status"] in ("done", "failed") and counts["num_committed"] > row["num_committed"]:
                ledger.write(output, "runs", author, [row | counts], ledger.RUNS)


def mark_killed_runs(output: str, run_id: str, damaged: list[str]) -> None:
    """Runs that never ended were killed: their row says so, and counts the shards that the ledger has of them."""
    for row in _newest_first(output, run_id, damaged):
        if row["status"] != "running":
            return
        shards = ledger.read_shards(output, row["run_id"], damaged)
        counts = _counted(shards)
        row |= counts | {"status": "killed", "num_failed": len(shards) - counts["num_committed"]}
        row |= dict.fromkeys(("rejected", "labels", "confidence", "seconds", "images_per_s", "cpu_s", "gpu_s"))
        ledger.write(output, "runs", row["run_id"], [row], ledger.RUNS)


def _counted(shards: list[dict[str, Any]]) -> dict[str, int]:
    """What a run's row says of its committed shards, by rows of `SHARDS`; a shard counts once."""
    committed = {shard["shard"]: shard for shard in shards if shard["status"] == "committed"}.values()
    return {"num_committed": len(committed)} | {name: sum(shard[name] for shard in committed) for name in ("num_images", "num_rejected")}


def read_run_before(output: str, run_id: str) -> dict[str, Any] | None:
    """The row of the last run that labelled something and ended, if it is not too many runs ago."""
    for _, row in zip(range(RUNS_BACK), _newest_first(output, run_id, []), strict=False):
        if row["num_images"] and row.get("labels"):
            return row
    return None


def estimate_seconds(output: str, run_id: str, pending_bytes: int) -> float | None:
    """Seconds that so many bytes of shards may take, as fast as the run before; None if there is none to go by."""
    row = read_run_before(output, run_id)
    if row is None or not row["pending_bytes"] or row["status"] != "done":
        return None
    return float(row["seconds"] * pending_bytes / row["pending_bytes"])


def read_settings(output: str, model_id: str | None) -> dict[str, Any]:
    """The config of the newest run by a model, or by any; empty if there is none.

    Raises:
        UserError: the output cannot be read.
    """
    check_uri("output", output)
    with explaining_errors("--output", output):
        for row in _newest_first(output, "~", []):  # behind all ids, which begin with the time
            if model_id in (None, row["model_id"]):
                config: dict[str, Any] = json.loads(row["config"])
                return config
    return {}


def _newest_first(output: str, run_id: str, damaged: list[str]) -> Iterator[dict[str, Any]]:
    for path in sorted(ledger.list_table(output, "runs"), reverse=True):
        if path < f"{run_id}.parquet":
            yield from ledger.read_rows(output, "runs", path, ledger.RUNS, damaged).to_pylist()


def _begun(run_id: str) -> datetime:
    return datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
