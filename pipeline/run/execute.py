"""The pending shards of a run -> finished tables: connect to Ray, prepare, label.

In: what is pending, weights, classes. Out: a filled `Summary`; tables and the ledger of shards are written on the way.
Ray and torch are imported only here and in the modules that this one imports late, once there is something to label.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from pipeline.actors.connect import connect, disconnect
from pipeline.config import flag
from pipeline.model import weights
from pipeline.model.weights import Weights
from pipeline.parse import parse_keep
from pipeline.run.attempts import Chain, Context, run_attempts
from pipeline.runners.checks import check_classes, check_runner
from pipeline.stages.sink import Sink
from pipeline.stop import Stop

if TYPE_CHECKING:
    from pipeline.actors.pools import Pools


def execute(context: Context, run_weights: Weights, classes: pa.Table, pending: pa.Table,
            begin: Callable[[], None]) -> None:
    """Label the pending shards. The shards that fail are in `summary.failed`.

    Args:
        run_weights: the weights of the run.
        begin: called once everything is checked that can be checked, before anything is written.

    Raises:
        JobError: before `begin`: weights, classes or machines do not fit, or there is no cluster. After `begin`: an
            actor cannot start.
        Stopped: the process was asked to end.
    """
    pool = ThreadPoolExecutor(1, "weights")
    loading = pool.submit(weights.load, run_weights)  # while Ray starts
    import ray  # noqa: F401  # the import takes seconds, in which the process may be asked to end
    context.stop.check()
    is_ours = connect(context.stream, context.stop)
    leave: Callable[[], object] = disconnect if is_ours else lambda: None
    try:
        state = _wait_for_weights(loading, context.stop)
        pool.shutdown()
        chain = _prepare(context, state, classes, is_ours and "RAY_ADDRESS" not in os.environ, begin)
        from pipeline.run.metrics import Metrics
        metrics = Metrics(context.summary.run_id, len(pending))
    except BaseException:  # `run_attempts` leaves Ray by itself
        leave()
        raise
    run_attempts(context, chain, pending, metrics, leave)


def _wait_for_weights(loading: Future[Any], stop: Stop) -> Any:
    while not loading.done():
        stop.check()
        wait([loading], 0.1)
    return loading.result()


def _prepare(context: Context, state: dict[str, Any], classes: pa.Table, alone: bool,
             begin: Callable[[], None]) -> Chain:
    """Check weights, classes and machines; call `begin`; and put the weights into Ray's object store.

    Args:
        state: the state dict of the network, as tensors.
        alone: this machine is the whole cluster.
    """
    import ray

    from pipeline.actors import graph
    from pipeline.actors.nodes import count_gpus, find_nodes
    from pipeline.actors.precision import agree_on_precision
    config, summary = context.config, context.summary
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it logs a traceback for each call of a dead process
    check_classes(len(state["last_linear.weight"]), classes)
    nodes = find_nodes(config, alone, context.stream, context.stop)
    device: Literal["cuda", "cpu"] = "cuda" if count_gpus(nodes) and config.device != "cpu" else "cpu"
    summary.device = device
    check_runner(config.runner, device)
    precision, summary.precision_note = agree_on_precision(config.precision, device, nodes)
    begin()
    local = [flag(name) for name in ("input", "output") if "://" not in getattr(config, name)]
    if len(nodes) > 1 and local:
        context.stream.write(f"{' and '.join(local)}: a path of this machine, "
                             f"which all {len(nodes)} nodes must share\n")
    reference = ray.put({name: tensor.numpy() for name, tensor in state.items()})
    labels = classes["label"].to_pylist()
    sink = Sink(config.output, summary.run_id, summary.model_id, config.output_embeddings,
                parse_keep(config.keep), config.table)

    def build(pools: Pools, left: pa.Table, places: dict[str, Any]) -> Any:
        make_labeller = partial(graph.load_labeller, [reference], device, precision, pools.label_threads,
                                config.batch_size, config.runner)
        return graph.build_dataset(config, pools, left, sink, make_labeller, labels, places)

    on_device = dataclasses.replace(config, device=device)
    return Chain(device, partial(find_nodes, on_device, alone, context.stream, context.stop), build)
