"""The pending shards of a run -> finished tables, in up to three attempts.

In: what is pending, weights, classes. Out: a filled `Summary`; tables and the ledger of shards are written on the way.
Ray and torch are imported only here, once there is something to label.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.actors.connect import connect, disconnect
from pipeline.config import Config, flag
from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.weights import Weights
from pipeline.run.progress import Progress
from pipeline.run.tally import Summary, Tally
from pipeline.stages.commit import Sink
from pipeline.stop import Stop
from pipeline.store.lease import Lease
from pipeline.store.retry import describe_error, without_retries

if TYPE_CHECKING:
    from pipeline.actors.nodes import Growth, Node
    from pipeline.actors.pools import Pools
    from pipeline.run.metrics import Metrics

STOP_S = 3.0  # for Ray to end an execution that is broken off
REPORTS_AHEAD = 16  # tables that wait for the driver's loop
USER_ERROR = "pipeline.errors.UserError: "  # as a traceback ends with it
AWAY_S = 120.0  # without an answer from the store of the output: the run ends
ATTEMPTS = 3  # of a shard in a run: after that, what kills its process or never passes is the next run's


def execute(config: Config, chosen: Weights, classes: pa.Table, pending: pa.Table, summary: Summary, lease: Lease | None,
            stream: TextIO, stop: Stop, begin: Callable[[], None]) -> None:
    """Label the pending shards; what fails is in `summary.failed`.

    Args:
        begin: called once all is checked that can be, before anything is written.

    Raises:
        UserError: of weights, classes and machines that do not fit, before `begin`; of an actor that cannot start, after it.
        Stopped: the process was asked to end.
    """
    pool = ThreadPoolExecutor(1, "weights")
    loading = pool.submit(weights.load, chosen)  # while Ray starts
    import ray
    stop.check()
    mine = connect(stream, stop)
    leave = disconnect if mine else lambda: None
    try:
        while not loading.done():
            stop.check()
            wait([loading], 0.1)
        state = loading.result()
        pool.shutdown()
        from pipeline.actors import graph
        from pipeline.actors.nodes import count_gpus, find_nodes
        from pipeline.actors.precision import agree_on_precision
        from pipeline.run.metrics import Metrics
        from pipeline.runners.labeller import check_classes, check_runner
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a traceback for each call of a dead process; we tell it
        check_classes(state, classes)
        alone = mine and "RAY_ADDRESS" not in os.environ
        nodes = find_nodes(config, alone, stream, stop)
        device: Literal["cuda", "cpu"] = "cuda" if count_gpus(nodes) and config.device != "cpu" else "cpu"
        summary.device = device
        check_runner(config.runner, device)
        find = partial(find_nodes, dataclasses.replace(config, device=device), alone, stream, stop)
        precision, summary.precision_note = agree_on_precision(config.precision, device, nodes)
        begin()
        local = [flag(name) for name in ("input", "output") if "://" not in getattr(config, name)]
        if len(nodes) > 1 and local:
            stream.write(f"{' and '.join(local)}: a path of this machine, which all {len(nodes)} nodes must share\n")
        reference = ray.put({name: tensor.numpy() for name, tensor in state.items()})
        del state
        labels = classes["label"].to_pylist()
        sink = Sink(config.output, summary.run_id, summary.model_id, config.output_embeddings)

        def build(pools: Pools, left: pa.Table, places: dict[str, Any]) -> Any:
            make_labeller = partial(graph.load_labeller, [reference], device, precision, pools.label_threads, config.batch_size,
                                    config.runner)
            return graph.build_dataset(config, pools, left, sink, make_labeller, labels, places)
    except BaseException:  # what comes later is left by `run_attempts`
        leave()
        raise
    run_attempts(config, build, find, device, pending, summary, Metrics(summary.run_id, len(pending)), lease, stream, stop, leave)


def run_attempts(config: Config, build: Callable[[Pools, pa.Table, dict[str, Any]], Any], find: Callable[[], list[Node]],
                 device: str, pending: pa.Table, summary: Summary, metrics: Metrics, lease: Lease | None, stream: TextIO,
                 stop: Stop, leave: Callable[[], object]) -> None:
    """Label what is pending in up to `ATTEMPTS` attempts, each with pools for the nodes that there are.

    When the cluster has grown meanwhile an attempt is broken off, and does not count.

    Args:
        find: the nodes that there are now; waits for a first one.
        build: the dataset of reports for pools, the shards that are left, and the places of the actors.
        leave: called when no attempt is under way any more, before the run is put in order.
    """
    from pipeline.actors.nodes import Growth, count_cpus, count_gpus
    from pipeline.actors.pools import NodesGone, choose_pools, reserve_places
    pending = pending.append_column("number", pa.array(np.arange(len(pending), dtype=np.int32)))
    begun = time.monotonic()
    tally = Tally(config.output, summary, pa.concat_arrays(pending["path"].chunks), metrics.end)
    try:
        attempt, changed = 1, False
        while attempt <= ATTEMPTS and len(left := tally.left()):
            shards = pending if len(left) == len(pending) else pending.take(pa.array(left))
            tally.last_attempt = attempt == ATTEMPTS
            nodes = find()
            pools = choose_pools(config, nodes, device)
            tally.label_cpus, tally.label_gpus = pools.label_threads if device == "cpu" else 0, pools.label_gpus
            summary.hardware = f"{len(nodes)} nodes, {count_cpus(nodes):g} CPUs, {count_gpus(nodes)} GPUs ({platform.machine()})"
            if changed:
                stream.write(f"the cluster has changed, to {len(nodes)} nodes with work: the pools are made anew\n")
            elif attempt > 1:
                stream.write(f"attempt {attempt} of {ATTEMPTS} for {len(left):,} shards, one at a time\n")
            if attempt > 1:
                pools = dataclasses.replace(pools, shards_at_once=1, task_bytes=0, blocks_a_commit=1)
            try:
                with reserve_places(pools, nodes, stop) as places:
                    progress = Progress(stream, len(left), pc.sum(shards["size"]).as_py())
                    changed = _attempt(build(pools, shards, places), tally, metrics, lease, progress, Growth(nodes), stop)
            except NodesGone:
                changed = True
                continue
            if summary.unrecorded:
                break
            try:
                tally.settle(last=tally.last_attempt and not changed)
            except Exception as error:  # noqa: BLE001  # each store has its own exceptions
                summary.unrecorded = describe_error(error)
                break
            attempt += not changed  # what was in hand when the cluster changed is labelled again
    finally:
        seconds = time.monotonic() - begun
        leave()
        with without_retries() if summary.unrecorded else nullcontext():
            tally.close()
        summary.images_per_s = summary.counts.num_images / seconds


def _attempt(dataset: Any, tally: Tally, metrics: Metrics, lease: Lease | None, progress: Progress, growth: Growth,
             stop: Stop) -> bool:
    """Label what the dataset holds, once. What a dead process had in hand is left out without a word.

    Returns:
        Whether it was broken off since the cluster has grown, or has other nodes.
    """
    try:
        for table in iterate_reports(dataset):
            for report in table.to_pylist() if table is not None else []:
                progress.add(report)
                metrics.add(report)
                tally.add(report)
            progress.tell()
            stop.check()
            if lease:
                lease.check()
                if lease.away_s() > AWAY_S:  # each shard that is left would wait for the store in vain
                    tally.summary.unrecorded = tally.reason = f"the store of --output has taken nothing for {AWAY_S:.0f} s"
                    return False
            if growth.seen():
                return True
    except UserError:
        raise
    except Exception as error:  # of Ray: a pool that cannot start, a node that is gone
        tally.reason = _cause(error)
        if USER_ERROR in tally.reason:  # of an actor that cannot start: no other attempt can either
            raise UserError(tally.reason.partition(USER_ERROR)[2].partition(" | ")[0]) from error
    finally:
        progress.tell(last=True)
    return False


def iterate_reports(dataset: Any) -> Iterator[pa.Table | None]:
    """The tables of reports as they come, and None each second in which none came: the caller has other things to look at.

    Ray is asked in a thread of its own. When the caller stops early, Ray's execution is stopped too, and the thread ends with it: what
    went on would ask for actors, and find Ray shut down, which ends the whole process with status 1.
    """
    coming: queue.Queue[pa.Table | Exception | None] = queue.Queue(REPORTS_AHEAD)
    over = threading.Event()
    executors = _watch_executors(dataset)

    def offer(one: pa.Table | Exception | None) -> None:
        while not over.is_set():
            try:
                return coming.put(one, timeout=1)
            except queue.Full:
                continue

    def ask() -> None:
        try:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                _drop_statistics(executors)
                offer(table)
                if over.is_set():
                    return
            offer(None)
        except Exception as error:  # noqa: BLE001  # handed to the caller
            offer(error)

    thread = threading.Thread(target=ask, name="reports", daemon=True)
    thread.start()
    try:
        while True:
            try:
                one = coming.get(timeout=1)
            except queue.Empty:
                yield None
                continue
            if one is None:
                return
            if isinstance(one, Exception):
                raise one
            yield one
    finally:
        over.set()
        if thread.is_alive():
            for executor in executors:
                executor.shutdown(force=True)
            thread.join(STOP_S)


def _watch_executors(dataset: Any) -> list[Any]:
    """The executors that a dataset starts from now on. Ray itself tells of one only once it has given its first block."""
    executors: list[Any] = []
    create = dataset._create_executor

    def created(*arguments: Any, **named: Any) -> Any:
        executors.append(create(*arguments, **named))
        return executors[-1]

    dataset._create_executor = created
    return executors


def _drop_statistics(executors: list[Any]) -> None:
    """Drop what Ray keeps of each block that each of its operators gave, some 2 KB: for statistics that nobody reads here."""
    for executor in executors:
        for operator in list(executor._topology or ()):
            getattr(operator, "_output_blocks_stats", []).clear()


def _cause(error: Exception) -> str:
    """An error of Ray in a line. Where it carries the traceback of an actor, its last lines come first: they say most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^~")]
    return describe_error(error) if len(lines) < 6 else f"{type(error).__name__}: {' | '.join(reversed(lines[-3:]))[:600]}"
