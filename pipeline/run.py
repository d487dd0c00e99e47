"""One run: plan, execute, ledger, summary.

In: a `Config`. Out: finished tables under `--output`, and a `Summary` whose `exit_code` a scheduler can act on.
Ray and torch are imported only when there is something to label.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import secrets
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TextIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import catalog, ledger, output, storage, weights
from pipeline.classes import load_classes
from pipeline.config import Config, UserError, canonical_uri
from pipeline.listing import list_files
from pipeline.progress import Progress
from pipeline.sink import Sink
from pipeline.weights import Weights

FLUSH_LEDGER_S = 60.0


@dataclass
class Summary:
    """What a run did. `failed`: reason by shard; `rejected`: number of images by reason code."""

    run_id: str
    model_id: str
    num_skipped: int
    num_pending: int
    pending_bytes: int
    num_orphans: int
    meaningless: bool
    num_committed: int = 0
    num_images: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    images_per_s: float = 0.0
    device: str = ""
    precision: str = ""
    hardware: str = ""

    def exit_code(self, max_rejected: float) -> int:
        """0 done, 1 a shard failed, 3 more rejected than allowed."""
        if self.failed:
            return 1
        return 3 if self.rejected.total() > max_rejected * self.num_images else 0


def label(config: Config, stream: TextIO = sys.stderr) -> Summary:
    """Label every shard that is new, changed or was never finished.

    Raises:
        UserError: what the user can mend, before anything is labelled.
    """
    begun, started_at = time.monotonic(), datetime.now(UTC)
    run_id = f"{started_at:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    chosen = weights.identify(config.weights)
    classes = load_classes(config.classes)
    made = _plan(config, chosen)
    summary = Summary(run_id, chosen.model_id, made.num_done, len(made.pending), pc.sum(made.pending["size"]).as_py() or 0,
                      len(made.orphans), chosen.meaningless)
    if config.dry_run:
        return summary
    output.claim(config, chosen.model_id, classes)
    status = "failed"
    try:
        if len(made.pending):
            _execute(config, chosen, classes, made.pending, summary, stream)
        status = "failed" if summary.failed else "done"
    finally:
        summary.seconds = time.monotonic() - begun
        ledger.write(config.output, "runs", run_id, [_run_row(config, summary, status, started_at)], ledger.RUNS)
    return summary


def _plan(config: Config, chosen: Weights) -> catalog.Plan:
    """List the input and the output, and compare."""
    try:
        inputs = catalog.shards(list_files(config.input))
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("input", config.input, error) from error
    if not len(inputs):
        raise UserError(f"--input {config.input} holds no tar shards (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst); "
                        "jobs/pack.py makes them of a folder of images.")
    storage.check_output(config.output)
    try:
        output.check_root(config)
        outputs = ledger.list_labels(config.output, chosen.model_id)
        finished = ledger.read_finished(config.output, chosen.model_id)
        unknown = catalog.unknown(outputs, finished)
        finished = pa.concat_tables([finished, ledger.read_footers(config.output, chosen.model_id, unknown)])
    except UserError:
        raise
    except Exception as error:
        raise storage.explain("output", config.output, error) from error
    return catalog.plan(inputs, outputs, finished)


def _execute(config: Config, chosen: Weights, classes: pa.Table, pending: pa.Table, summary: Summary,
             stream: TextIO) -> None:
    """Label the pending shards; what fails is in `summary.failed`."""
    with ThreadPoolExecutor(1) as pool:  # Ray starts while the weights load
        loading = pool.submit(weights.load, chosen)
        import ray

        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                 ignore_reinit_error=True)
        state = loading.result()
    from pipeline import graph
    from pipeline.labeller import check_classes, resolve_precision
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its start and end; `Progress` tells ours
    check_classes(state, classes)
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    if config.device == "cuda" and not num_gpus:
        raise UserError("--device cuda: the cluster has no GPU; use --device cpu or auto.")
    device = "cuda" if num_gpus and config.device != "cpu" else "cpu"
    if device == "cpu":
        resolve_precision(config.precision, device)
    node_cpus = [node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    pools = graph.choose_pools(config, node_cpus, num_gpus, device)
    summary.device = device
    summary.hardware = f"{len(node_cpus)} nodes, {sum(node_cpus):g} CPUs, {num_gpus} GPUs ({platform.machine()})"
    sink = Sink(config.output, summary.run_id, summary.model_id)
    reference = ray.put({name: tensor.numpy() for name, tensor in state.items()})
    del state
    dataset = graph.build(config, pools, pending, sink, reference, classes["label"].to_pylist(), device)
    progress = Progress(stream, len(pending), summary.pending_bytes)
    tally = _Tally(config.output, summary)
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for report in cast(pa.Table, block).to_pylist():
                progress.add(report)
                tally.add(report)
    finally:
        progress.tell(last=True)
        summary.images_per_s = progress.images_per_s
        tally.close(pending["path"].to_pylist())
        storage.remove(storage.join(config.output, "_staging", *([summary.run_id] if summary.failed else [])))


class _Tally:
    """Reports of batches -> rows of the `shards` table, and the summary's counts."""

    def __init__(self, output_uri: str, summary: Summary) -> None:
        self.output, self.summary = output_uri, summary
        self.open: dict[str, dict[str, Any]] = {}  # shards of which something was reported, not all
        self.ended: set[str] = set()
        self.rows: list[dict[str, Any]] = []
        self.num_parts, self.flushed = 0, time.monotonic()

    def add(self, report: dict[str, Any]) -> None:
        row = self.open.setdefault(report["shard"], {
            "run_id": self.summary.run_id, "shard": report["shard"], "source_uri": report["uri"], "num_images": 0,
            "model_id": self.summary.model_id, "rejected": Counter(), "image_bytes": 0, "decode_s": 0.0, "label_s": 0.0})
        row |= {"source_size": report["size"], "source_etag": report["etag"]}
        row["num_images"] += report["num_images"]
        row["image_bytes"] += report["num_bytes"]
        row["decode_s"] += report["decode_s"]
        row["label_s"] += report["label_s"]
        row["rejected"].update(report["errors"])
        if report["end"]:
            row["total"] = report["first"] + report["num_images"]
        if report["file_size"] is not None:
            row |= {"file": report["shard"] + ".parquet", "file_size": report["file_size"],
                    "file_etag": report["file_etag"]}
        self.summary.num_images += report["num_images"]
        self.summary.rejected.update(report["errors"])
        self.summary.precision = report["precision"]
        if report["failure"] is not None:
            self._end(row, "failed", report["failure"])
        elif "file" in row and row["num_images"] == row.get("total"):
            self._end(row, "committed", None)
        if time.monotonic() - self.flushed > FLUSH_LEDGER_S:
            self._flush()

    def close(self, pending: list[str]) -> None:
        """Settle what nobody reported by looking at the output itself; write the rest of the ledger."""
        silent = [shard for shard in pending if shard not in self.ended]
        finished = self._finished([shard + ".parquet" for shard in silent]) if silent else {}
        for shard in silent:
            row = self.open.get(shard) or {"run_id": self.summary.run_id, "shard": shard,
                                           "model_id": self.summary.model_id, "rejected": Counter(), "num_images": 0}
            entry = finished.get(shard + ".parquet")
            if entry and all(entry[name] == row.get(name) for name in ("source_size", "source_etag")):
                row |= entry
                self._end(row, "committed", None)
            else:
                self._end(row, "failed", "the run ended before all its rows were written")
        self._flush()

    def _finished(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """What the output's files of these names say of themselves, as rows of `FINISHED`."""
        files = ledger.list_labels(self.output, self.summary.model_id)
        files = files.filter(pc.is_in(files["path"], pa.array(names)))
        found = ledger.read_footers(self.output, self.summary.model_id, files)
        return {entry["file"]: entry for entry in found.to_pylist()}

    def _end(self, row: dict[str, Any], status: str, failure: str | None) -> None:
        self.open.pop(row["shard"], None)
        self.ended.add(row["shard"])
        if failure is None:
            self.summary.num_committed += 1
        else:
            self.summary.failed[row["shard"]] = failure
        self.rows.append({**row, "status": status, "failure": failure, "num_rejected": row["rejected"].total(),
                          "rejected": _rejected(row["rejected"]), "labelled_at": datetime.now(UTC)})

    def _flush(self) -> None:
        self.flushed = time.monotonic()
        if self.rows:
            name = f"{self.summary.run_id}-{self.num_parts:05}"
            ledger.write(self.output, "shards", name, self.rows, ledger.SHARDS)
            self.rows, self.num_parts = [], self.num_parts + 1


def _rejected(counts: Counter[str]) -> list[dict[str, Any]]:
    return [{"error": error, "num_images": number} for error, number in sorted(counts.items())]


def _run_row(config: Config, summary: Summary, status: str, started_at: datetime) -> dict[str, Any]:
    versions = {name: version(name) for name in ("ray", "torch", "torchvision", "pyarrow", "pillow", "simplejpeg")}
    return {**dataclasses.asdict(summary), "status": status, "started_at": started_at,
            "input": canonical_uri(config.input), "versions": json.dumps(versions | {"python": platform.python_version()}),
            "config": json.dumps(dataclasses.asdict(config)), "num_failed": len(summary.failed),
            "num_rejected": summary.rejected.total(), "rejected": _rejected(summary.rejected)}
