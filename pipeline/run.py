"""One run: plan, execute, ledger, summary.

In: a `Config`. Out: finished tables under `--output`, and a `Summary` whose `exit_code` a scheduler can act on.
Ray and torch are imported only when there is something to label.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TextIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import catalog, history, inputs, ledger, output, report, storage, weights
from pipeline.classes import load_classes
from pipeline.config import Config, UserError, canonical_uri
from pipeline.lease import Lease, held
from pipeline.progress import Progress
from pipeline.retry import told
from pipeline.sink import Sink
from pipeline.tally import Summary, Tally
from pipeline.weights import Weights

if TYPE_CHECKING:
    from pipeline.metrics import Metrics

ATTEMPTS = 3  # of a shard in a run: after that, what kills its process or never passes is the next run's


class NoCluster(UserError):
    """Ray is not there; nothing was labelled."""

    exit_code = 1


def label(config: Config, stream: TextIO = sys.stderr) -> Summary:
    """Label every shard that is new, changed or was never finished.

    Raises:
        UserError: what the user can mend, before anything is labelled.
    """
    begun, started_at = time.monotonic(), datetime.now(UTC)
    run_id = f"{started_at:%Y%m%dT%H%M%S}-{config.run_name or secrets.token_hex(3)}"
    chosen = weights.identify(config.weights)
    classes = load_classes(config.classes)
    found = _inputs(config)
    storage.check_output(config.output)
    with held(config.output, run_id) if config.lease and not config.dry_run else nullcontext() as lease:
        made, found_footers = _plan(config, chosen, found)
        summary = Summary(run_id, chosen.model_id, made.num_done, len(made.pending),
                          pc.sum(made.pending["size"]).as_py() or 0, len(made.orphans), chosen.meaningless)
        if config.dry_run:
            summary.expected_s = history.expected_s(config.output, run_id, summary.pending_bytes)
            return summary
        output.claim(config, chosen.model_id, classes)
        try:
            _begin(config, summary, lease, started_at, found_footers)
            if len(made.pending):
                _execute(config, chosen, classes, made.pending, summary, lease, stream)
        finally:
            summary.seconds = time.monotonic() - begun
            _record(config, summary, lease, started_at, classes)
    return summary


def _inputs(config: Config) -> pa.Table:
    """The shards under the input."""
    try:
        found = inputs.find(config.input, config.format, config.partition)
        inputs.check(config, found)
    except UserError:
        raise
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("input", config.input, error) from error
    return found


def _plan(config: Config, chosen: Weights, found: pa.Table) -> tuple[catalog.Plan, pa.Table]:
    """List the output, and compare; and what the footers said of files that the ledger did not know."""
    try:
        output.check_root(config)
        outputs = ledger.list_labels(config.output, chosen.model_id, config.partition)
        finished = ledger.read_finished(config.output, chosen.model_id)
        unknown = catalog.unknown(outputs, finished)
        footers = ledger.read_footers(config.output, chosen.model_id, unknown)
    except UserError:
        raise
    except Exception as error:
        raise storage.explain("output", config.output, error) from error
    finished = pa.concat_tables([finished, footers.select(catalog.FINISHED.names)])
    return catalog.plan(found, outputs, finished), footers


def _execute(config: Config, chosen: Weights, classes: pa.Table, pending: pa.Table, summary: Summary,
             lease: Lease | None, stream: TextIO) -> None:
    """Label the pending shards; what fails is in `summary.failed`."""
    with ThreadPoolExecutor(1) as pool:  # Ray starts while the weights load
        loading = pool.submit(weights.load, chosen)
        import ray

        mine = not ray.is_initialized()
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
        except Exception as error:  # Ray raises no kind of its own
            where = f"cluster at RAY_ADDRESS {os.environ['RAY_ADDRESS']}" if "RAY_ADDRESS" in os.environ else "on this machine"
            raise NoCluster(f"Ray {where} does not answer or start ({told(error)[:300]}).") from error
        state = loading.result()
    from pipeline import graph
    from pipeline.labeller import check_classes, resolve_precision
    from pipeline.metrics import Metrics
    from pipeline.nodes import find_nodes
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a traceback for each call of a dead process; we tell it
    check_classes(state, classes)
    node_cpus, num_gpus = find_nodes(config, mine and "RAY_ADDRESS" not in os.environ, stream)
    device = "cuda" if num_gpus and config.device != "cpu" else "cpu"
    if device == "cpu":
        resolve_precision(config.precision, device)
    pools = graph.choose_pools(config, node_cpus, num_gpus, device)
    summary.device = device
    summary.hardware = f"{len(node_cpus)} nodes, {sum(node_cpus):g} CPUs, {num_gpus} GPUs ({platform.machine()})"
    sink = Sink(config.output, summary.run_id, summary.model_id, config.output_embeddings)
    reference = ray.put({name: tensor.numpy() for name, tensor in state.items()})
    del state
    begun = time.monotonic()
    metrics = Metrics(summary.run_id, pools.batch_size, len(pending))
    tally = Tally(config.output, summary, pools.label_threads if device == "cpu" else 0, pools.label_gpus, metrics.end)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            left = pending.filter(pc.invert(pc.is_in(pending["path"], pa.array(sorted(tally.ended), pa.string()))))
            if not len(left):
                break
            if attempt > 1:
                stream.write(f"attempt {attempt} of {ATTEMPTS} for {len(left):,} shards, one at a time\n")
                pools = dataclasses.replace(pools, shards_at_once=1, task_bytes=0)
            dataset = graph.build(config, pools, left, sink, reference, classes["label"].to_pylist(), device)
            _run_attempt(dataset, tally, metrics, lease, Progress(stream, len(left), pc.sum(left["size"]).as_py()))
            try:
                tally.settle(left["path"].to_pylist(), last=attempt == ATTEMPTS)
            except Exception as error:  # noqa: BLE001  # each store has its own exceptions
                summary.unrecorded = told(error)
                break
    finally:
        seconds = time.monotonic() - begun
        if mine:
            ray.shutdown()  # or its actors would still write while the run is put in order
        tally.close(pending["path"].to_pylist())
        summary.images_per_s = summary.counts.num_images / seconds


def _run_attempt(dataset: Any, tally: Tally, metrics: Metrics, lease: Lease | None, progress: Progress) -> None:
    """Label what the dataset holds, once. What a dead process had in hand is left out without a word."""
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for report in cast(pa.Table, block).to_pylist():
                progress.add(report)
                metrics.add(report)
                tally.add(report)
            if lease:
                lease.check()
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  # of Ray: a pool that cannot start, a node that is gone
        tally.reason = told(error)
    finally:
        progress.tell(last=True)


def _begin(config: Config, summary: Summary, lease: Lease | None, started_at: datetime, footers: pa.Table) -> None:
    """What killed runs owe the ledger; and this run's row, which says `running` until it ends."""
    try:
        if lease:
            history.adopt(config.output, summary.model_id, footers, summary.run_id)
            history.bury(config.output, summary.run_id)
        if summary.num_pending:
            ledger.write(config.output, "runs", summary.run_id, [_run_row(config, summary, "running", started_at)], ledger.RUNS)
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("output", config.output, error) from error


def _record(config: Config, summary: Summary, lease: Lease | None, started_at: datetime, classes: pa.Table) -> None:
    """The run's row and its report, whatever way the run ends; and its staging removed, with a lease that of dead runs too."""
    broken = sys.exc_info()[0] is not None or summary.failed or summary.unrecorded
    try:
        whole = lease is not None and lease.lost is None
        storage.remove(storage.join(config.output, "_staging", *([] if whole else [summary.run_id])))
        row = _run_row(config, summary, "failed" if broken else "done", started_at)
        ledger.write(config.output, "runs", summary.run_id, [row], ledger.RUNS)
        page = report.page(row, summary.findings, summary.failed, classes["label"].to_pylist(),
                           history.before(config.output, summary.run_id), summary.notes)
        storage.put_whole(output.report_uri(config.output, summary.run_id), page.encode())
        if whole:
            output.remove_old_reports(config.output, config.keep_reports)
    except Exception as error:  # noqa: BLE001  # each store has its own exceptions
        summary.unrecorded = told(error)


def _run_row(config: Config, summary: Summary, status: str, started_at: datetime) -> dict[str, Any]:
    versions = {name: version(name) for name in ("ray", "torch", "torchvision", "pyarrow", "pillow", "simplejpeg")}
    return {**vars(summary), **summary.counts.columns(), "status": status, "started_at": started_at,
            "input": canonical_uri(config.input), "versions": json.dumps(versions | {"python": platform.python_version()}),
            "config": json.dumps(dataclasses.asdict(config)), "num_failed": len(summary.failed)}
