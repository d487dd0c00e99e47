"""The pending shards of a run -> finished tables, in up to three attempts.

In: what is pending, weights, classes. Out: a filled `Summary`; tables and the ledger of shards are written on the way.
Ray and torch are imported only here, once there is something to label.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TextIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import weights
from pipeline.config import Config, UserError, canonical_uri, flag
from pipeline.lease import Lease
from pipeline.progress import Progress
from pipeline.retry import told
from pipeline.sink import Sink
from pipeline.tally import Summary, Tally
from pipeline.weights import Weights

if TYPE_CHECKING:
    from pipeline.metrics import Metrics
    from pipeline.nodes import Growth

ATTEMPTS = 3  # of a shard in a run: after that, what kills its process or never passes is the next run's


class NoCluster(UserError):
    """Ray is not there; nothing was labelled."""

    exit_code = 1


def execute(config: Config, chosen: Weights, classes: pa.Table, pending: pa.Table, summary: Summary, lease: Lease | None,
            stream: TextIO) -> None:
    """Label the pending shards; what fails is in `summary.failed`."""
    state, mine = _connect(chosen)
    import ray

    from pipeline import graph
    from pipeline.labeller import check_classes, resolve_precision
    from pipeline.metrics import Metrics
    from pipeline.nodes import Growth, find_nodes, live_nodes
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a traceback for each call of a dead process; we tell it
    check_classes(state, classes)
    node_cpus, num_gpus = find_nodes(config, mine and "RAY_ADDRESS" not in os.environ, stream)
    summary.device = device = "cuda" if num_gpus and config.device != "cpu" else "cpu"
    if device == "cpu":
        resolve_precision(config.precision, device)
    pools = graph.choose_pools(config, node_cpus, num_gpus, device)
    local = [flag(name) for name in ("input", "output") if "://" not in canonical_uri(getattr(config, name))]
    if len(node_cpus) > 1 and local:
        stream.write(f"{' and '.join(local)}: a path of this machine, which all {len(node_cpus)} nodes must share\n")
    sink = Sink(config.output, summary.run_id, summary.model_id, config.output_embeddings)
    reference = ray.put({name: tensor.numpy() for name, tensor in state.items()})
    del state
    begun = time.monotonic()
    metrics = Metrics(summary.run_id, pools.batch_size, len(pending))
    tally = Tally(config.output, summary, pools.label_threads if device == "cpu" else 0, pools.label_gpus, metrics.end)
    try:
        attempt = 1
        while attempt <= ATTEMPTS:
            left = pending.filter(pc.invert(pc.is_in(pending["path"], pa.array(sorted(tally.ended), pa.string()))))
            if not len(left):
                break
            summary.hardware = f"{len(node_cpus)} nodes, {sum(node_cpus):g} CPUs, {num_gpus} GPUs ({platform.machine()})"
            if attempt > 1:
                stream.write(f"attempt {attempt} of {ATTEMPTS} for {len(left):,} shards, one at a time\n")
                pools = dataclasses.replace(pools, shards_at_once=1, task_bytes=0)
            dataset = graph.build(config, pools, left, sink, reference, classes["label"].to_pylist(), device)
            progress = Progress(stream, len(left), pc.sum(left["size"]).as_py())
            grown = _attempt(dataset, tally, metrics, lease, progress, Growth(node_cpus, num_gpus))
            attempt += not grown
            try:
                tally.settle(left["path"].to_pylist(), last=attempt > ATTEMPTS)
            except Exception as error:  # noqa: BLE001  # each store has its own exceptions
                summary.unrecorded = told(error)
                break
            if grown:  # what was in hand is labelled again
                node_cpus, num_gpus = live_nodes()
                pools = graph.choose_pools(config, node_cpus, num_gpus, device)
                stream.write(f"the cluster has grown to {len(node_cpus)} nodes with work: the pools are made anew\n")
    finally:
        seconds = time.monotonic() - begun
        if mine:
            ray.shutdown()  # or its actors would still write while the run is put in order
        tally.close(pending["path"].to_pylist())
        summary.images_per_s = summary.counts.num_images / seconds


def _connect(chosen: Weights) -> tuple[dict[str, Any], bool]:
    """The weights' state dict, and whether Ray was not there before; it starts while the weights load."""
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(weights.load, chosen)
        import ray

        mine = not ray.is_initialized()
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
        except Exception as error:  # Ray raises no kind of its own
            where = f"cluster at RAY_ADDRESS {os.environ['RAY_ADDRESS']}" if "RAY_ADDRESS" in os.environ else "on this machine"
            raise NoCluster(f"Ray {where} does not answer or start ({told(error)[:300]}).") from error
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler aborts a process that needs over 3 s to end in order
        return loading.result(), mine


def _attempt(dataset: Any, tally: Tally, metrics: Metrics, lease: Lease | None, progress: Progress, growth: Growth) -> bool:
    """Label what the dataset holds, once. What a dead process had in hand is left out without a word.

    Returns:
        Whether it was broken off since the cluster has grown.
    """
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for report in cast(pa.Table, block).to_pylist():
                progress.add(report)
                metrics.add(report)
                tally.add(report)
            if lease:
                lease.check()
            if growth.seen():
                return True
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  # of Ray: a pool that cannot start, a node that is gone
        tally.reason = told(error)
    finally:
        progress.tell(last=True)
    return False
