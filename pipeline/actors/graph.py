"""The chain of Ray Data: pending shards -> decode -> label -> commit -> reports.

In: the pending shards, the weights in Ray's object store. Out: a dataset of rows of `REPORT`, which streams.
One row of Ray Data is one block, and Ray neither cuts nor joins blocks: two crossings of the object store, of the
pixels (uint8) and of the answers.
Not here: how the cluster is shared out (`pools`), the stages themselves, the plan, the ledger, the summary.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

from pipeline.actors.pools import Pools
from pipeline.config import Config
from pipeline.formats.loose import GROUPS
from pipeline.formats.parquet_parts import PARTS
from pipeline.inputs.read import Inputs
from pipeline.stages.batch import IMAGE_BYTES
from pipeline.stages.commit import Committer
from pipeline.stages.label import LabelsImages, LabelStage
from pipeline.stages.read import Reader
from pipeline.stages.sink import Sink
from pipeline.store.s3 import places as s3_places
from pipeline.store.storage import child

MOST_TASKS = 10_000  # of readers: the driver of Ray keeps some 10 KB for each
TASKS_EACH = 4  # of a reader, at least, so that all readers end together
BLOCKS_UNFETCHED = 8  # that a reader may be ahead of the driver; with Ray's 2 a reader waits for the driver's loop
STORE_SHARE = 0.7  # of the object stores, for blocks

Stage = tuple[type, tuple[Any, ...]]  # a class, and the arguments of its constructor


def split_into_tasks(size_bytes: np.ndarray, num_readers: int, task_bytes: int) -> list[tuple[int, int]]:
    """Shards `start` to `stop` of each task.

    A task has shards of up to `task_bytes`, and a reader has at least `TASKS_EACH` tasks. For more than `MOST_TASKS`
    shards, a task has as many shards as that limit takes.

    Args:
        size_bytes: of each shard, int [number of shards].
    """
    bytes_before = np.cumsum(size_bytes) - size_bytes
    total = int(size_bytes.sum())
    share = max(1, min(task_bytes, total // (TASKS_EACH * num_readers)))
    if len(size_bytes) > MOST_TASKS:
        share = max(share, total // MOST_TASKS)
    starts = [0, *(1 + np.flatnonzero(np.diff(bytes_before // share))).tolist(), len(size_bytes)]
    return list(pairwise(starts))


def chain_stages(pools: Pools, shards: list[pa.Table], stages: dict[str, Stage],
                 places: dict[str, Any]) -> ray.data.Dataset:
    """The chain of stages over tables of shards, a table for each task.

    Args:
        stages: some of `decode`, `label` and `commit`, in this order.
        places: a scheduling strategy by stage; a stage without one is placed by Ray.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # the blocks of a dead process are left out; see `_add_stage`
    context.target_max_block_size = 1  # a row is an object, whatever its size: Ray neither cuts nor joins rows
    context._max_num_blocks_in_streaming_gen_buffer = BLOCKS_UNFETCHED
    bytes_ahead = (pools.blocks_ahead * (len(pools.labellers) + len(pools.decoders)) * min(pools.block_size, 1024)
                   * IMAGE_BYTES)
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    store_bytes = STORE_SHARE * resources.get("object_store_memory", bytes_ahead)
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=min(bytes_ahead, store_bytes))
    # `from_arrow` needs a task, and a processor for the task that nobody has reserved.
    dataset: ray.data.Dataset = ray.data.from_blocks(shards)
    add: dict[str, Callable[..., ray.data.Dataset]] = {
        "decode": partial(_add_stage, size=min(len(pools.decoders), len(shards)), calls_at_once=pools.shards_at_once,
                          batch_size=1, num_cpus=pools.decode_cpus),
        "label": partial(_add_stage, size=len(pools.labellers), calls_at_once=pools.labels_at_once,
                         in_flight=pools.labels_queued, batch_size=1, num_cpus=pools.label_cpus,
                         num_gpus=pools.label_gpus),
        "commit": partial(_add_stage, size=len(pools.sinks), calls_at_once=pools.puts_at_once,
                          batch_size=pools.blocks_a_commit, num_cpus=pools.sink_cpus)}
    for name, stage in stages.items():
        dataset = add[name](dataset, *stage, place=places.get(name))
    return dataset


def _add_stage(dataset: ray.data.Dataset, stage: type, arguments: tuple[Any, ...], *, size: int, calls_at_once: int,
               batch_size: int, num_cpus: float, place: Any, num_gpus: float = 0,
               in_flight: int = 0) -> ray.data.Dataset:
    """Add a pool of `size` actors to a dataset.

    Ray starts a dead actor again. Ray does not repeat the calls of the dead actor, since a call that kills its
    process would be repeated for ever. The blocks of those calls are left out, and the run labels their shards again.

    Args:
        calls_at_once: of an actor.
        in_flight: calls that an actor has at hand; 0: one, or twice as many as it runs at once.
    """
    in_flight = in_flight or (2 * calls_at_once if calls_at_once > 1 else 1)
    pool = ActorPoolStrategy(size=size, max_concurrent_calls_per_actor=calls_at_once, enable_true_multi_threading=True,
                             max_tasks_in_flight_per_actor=in_flight)
    options: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 0}
    if place:
        options["scheduling_strategy"] = place
    if places := os.environ.get(s3_places.VARIABLE):  # the nodes may not have this variable
        options["runtime_env"] = {"env_vars": {s3_places.VARIABLE: places}}
    with warnings.catch_warnings():  # Ray 2.60 has no other way to give these options
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return dataset.map_batches(stage, batch_size=batch_size, batch_format="pyarrow", fn_constructor_args=arguments,
                                   compute=pool, num_cpus=num_cpus, num_gpus=num_gpus, **options)


def shard_tables(config: Config, pools: Pools, pending: pa.Table) -> list[pa.Table]:
    """The pending shards as the readers get them: a table for each task.

    Args:
        pending: `number`, `path` and `size` of each shard, and `uri` if the shards are not below the input; for loose
            images all columns of `GROUPS`, for parts of Parquet files those of `PARTS`.
    """
    uris = (pending["uri"] if "uri" in pending.column_names
            else [child(config.input, path) for path in pending["path"].to_pylist()])
    shards = pa.table({"number": pending["number"], "shard": pending["path"], "uri": uris})
    for column, schema in (("members", GROUPS), ("part", PARTS)):  # the reader gets the group itself
        if column in pending.column_names:
            shards = shards.append_column("group", pending.select(schema.names).to_struct_array())
    return [shards.slice(start, stop - start) for start, stop in split_into_tasks(
        pending["size"].to_numpy(), len(pools.decoders) * pools.shards_at_once, pools.task_bytes)]


def decode_stage(config: Config, pools: Pools) -> Stage:
    """The stage that reads and decodes."""
    return Reader, (pools.batch_size, pools.block_size, pools.decode_threads, config.max_image_pixels,
                    Inputs.of(config), config.reduced_decode)


def build_dataset(config: Config, pools: Pools, pending: pa.Table, sink: Sink,
                  make_labeller: Callable[[], LabelsImages], labels: list[str],
                  places: dict[str, Any]) -> ray.data.Dataset:
    """The whole chain: rows of `REPORT`. Nothing runs until the dataset is iterated.

    Args:
        pending: a table of `FILES` or `GROUPS` with a column `number`, which reports name their shards by.
        make_labeller: called in each actor that labels.
        labels: the label of each label_id.
    """
    return chain_stages(pools, shard_tables(config, pools, pending), {
        "decode": decode_stage(config, pools), "label": (LabelStage, (make_labeller, len(labels))),
        "commit": (Committer, (sink, labels))}, places)


def load_labeller(state: list[Any], device: str, precision: str, num_threads: int, batch_size: int | None,
                  runner: str) -> LabelsImages:
    """The labeller of an actor.

    Args:
        state: a list of one reference to the state dict as numpy arrays. The list keeps Ray from fetching the state
            dict early.
    """
    import torch

    from pipeline.runners.labeller import Labeller
    from pipeline.runners.precision import resolve_precision
    tensors = {name: torch.tensor(values) for name, values in ray.get(state[0]).items()}
    return Labeller(tensors, device, resolve_precision(precision, device), num_threads, batch_size, runner)
