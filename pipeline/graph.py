"""The Ray Data chain: pending shards -> decode -> label -> commit -> reports.

In: the pending shards, the weights in Ray's object store. Out: a dataset of `REPORT` rows, one a batch, that streams.
Here too: how many actors of which size a cluster gets. Nearly the only module that imports ray.
Not here: the plan, the ledger, the summary.

One Ray Data row is one batch, and travels as it is: two crossings of the object store, pixels once (uint8) and rows once.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

from pipeline.batches import LABELLED, samples_of
from pipeline.config import Config, canonical_uri
from pipeline.gallery import Gallery, pictures
from pipeline.image_files import GROUPS
from pipeline.inputs import Inputs
from pipeline.reader import IMAGE_BYTES, Reader, pixels_of
from pipeline.retry import told
from pipeline.sink import Committer, Sink
from pipeline.storage import child
from pipeline.table import ROWS, rows


@dataclass(frozen=True)
class Pools:
    """How the cluster is shared out. `*_cpus` are Ray's logical CPUs, for an actor or task."""

    num_decoders: int
    decode_threads: int
    decode_cpus: float
    num_labellers: int
    label_threads: int
    label_cpus: float
    label_gpus: float
    batch_size: int
    block_size: int  # images that travel as one object; a batch or several
    task_bytes: int  # of small shards that a reader takes in one task, one after the other
    blocks_ahead: int  # of each reader and labeller: enough to never wait, few enough to keep memory flat
    shards_at_once: int = 2  # of a reader: while one shard ends or waits for the store, the other decodes


MOST_TASKS = 10_000  # of readers: Ray's driver keeps some 10 KB for each
TASKS_EACH = 4  # of a reader at least, so that all end together
TASK_BYTES = 2**26  # Ray takes 15 ms for each task and its object, in which a GPU labels 150 images
SINK_CPUS = 0.25
BATCHES_UNFETCHED = 8  # that a reader may be ahead of the driver's loop; Ray's 2 make it wait for each turn of it
BATCHES_AT_ONCE = 2  # of a labeller: the device computes one while the other is brought and taken away
PUTS_AT_ONCE = 4  # of a sink actor: a put waits for the store, not for a processor


def choose_pools(config: Config, node_cpus: list[float], num_gpus: int, device: str) -> Pools:
    """The pools for a cluster of nodes with so many CPUs each; what the config says goes first.

    With GPUs: a labeller each, and nearly all CPUs decode. Without: decoding costs 1/30 of the network, so a labeller
    takes nearly all CPUs of a node, or of a part of one that is as large as the median node; smaller ones only decode.
    """
    if device == "cuda":
        num_labellers = config.labellers or num_gpus
        free = max(1, int(sum(node_cpus) - num_labellers - 1))
        threads = config.decode_threads or min(4, free)
        batch_size = config.batch_size or 256
        return Pools(config.decoders or max(1, free // threads), threads, threads, num_labellers, 1, 0.5, 1,
                     batch_size, max(batch_size, 1024), TASK_BYTES, 6)
    part = median_low(node_cpus)
    num_parts = sum(int(cpus // part) for cpus in node_cpus)
    num_labellers, num_decoders = config.labellers or num_parts, config.decoders or num_parts
    threads = config.decode_threads or max(1, int(part) // 8)
    label_cpus = max(part - 1, 0.55 * part) if part >= 2 else part / 2  # one a part, and room for what others are placed where
    batch_size = config.batch_size or 96  # 25 MB: glibc keeps no more than 32 MB in one piece for the next
    return Pools(num_decoders, threads, min(0.25, part / 4), num_labellers, max(1, int(part * num_parts // num_labellers)),
                 label_cpus * num_parts / num_labellers, 0, batch_size, batch_size, 0, 3)


class LabelStage:
    """Batches of pixels in, batches of rows out; one network an actor.

    Args:
        state: list of one reference to the state dict as numpy arrays (in a list, so that Ray passes it on as it is).
        labels: the label of each label_id.
    """

    def __init__(self, state: Any, labels: list[str], device: str, precision: str, num_threads: int,
                 batch_size: int) -> None:
        import torch

        from pipeline.labeller import Labeller, resolve_precision
        state_of = {name: torch.tensor(values) for name, values in ray.get(state[0]).items()}
        self.labeller = Labeller(state_of, device, resolve_precision(precision, device), num_threads,
                                 batch_size)
        self.labels = pa.array(labels)
        self.broken = False
        self.busy = _BusyTime()
        self.gallery = Gallery()

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.broken:
            os._exit(1)  # after an error of the network or its device no result can be trusted; Ray starts another
        self.busy.begin()
        pixels_NHWC = pixels_of(batch)
        made, values = ROWS.empty_table(), {}
        if len(pixels_NHWC):
            try:
                made = rows(samples_of(batch), *self.labeller(pixels_NHWC), self.labels)
            except Exception as error:  # noqa: BLE001  # of torch or CUDA
                self.broken = True
                values = {"failure": pa.array([told(error)]), "passing": pa.array([True])}
        struct = pa.StructArray.from_arrays([column.combine_chunks() for column in made.columns], fields=list(ROWS))
        offsets = pa.array(np.array([0, made.num_rows], np.int32))
        values |= {"label_s": pa.array([self.busy.end()]), "precision": pa.array([self.labeller.precision]),
                   "pictures": pictures(made, pixels_NHWC, self.gallery),
                   "rows": pa.ListArray.from_arrays(offsets, struct, type=LABELLED.field("rows").type)}
        return pa.table([values[name] if name in values else batch[name] for name in LABELLED.names], schema=LABELLED)


class _BusyTime:
    """Seconds in which at least one of several calls at once is under way; each second is told by one of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls, self.since = 0, 0.0

    def begin(self) -> None:
        with self.lock:
            if not self.calls:
                self.since = time.perf_counter()
            self.calls += 1

    def end(self) -> float:
        """Seconds since the last call ended, or since this one began if none was under way."""
        with self.lock:
            self.calls -= 1
            since, self.since = self.since, time.perf_counter()
            return self.since - since


def _stage(dataset: ray.data.Dataset, stage: type, arguments: tuple[Any, ...], size: int, calls_at_once: int,
           num_cpus: float, num_gpus: float = 0) -> ray.data.Dataset:
    """A pool of `size` actors, each of which has a call more at hand than it is busy with, if it has several at once.

    Ray starts a dead actor again, but not its calls, which it would for ever: what they had in hand is left out, and the
    run labels those shards again.
    """
    in_flight = 2 * calls_at_once if calls_at_once > 1 else 1
    pool = ActorPoolStrategy(size=size, max_concurrent_calls_per_actor=calls_at_once, enable_true_multi_threading=True,
                             max_tasks_in_flight_per_actor=in_flight)
    with warnings.catch_warnings():  # there is no other way to say `max_task_retries` in Ray 2.60
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return dataset.map_batches(stage, batch_size=1, batch_format="pyarrow", fn_constructor_args=arguments, compute=pool,
                                   num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=-1, max_task_retries=0)


def tasks(size_bytes: np.ndarray, num_readers: int, task_bytes: int) -> list[tuple[int, int]]:
    """Shards `start` to `stop` of each task: up to `task_bytes` together, and still `TASKS_EACH` tasks a reader.

    Beyond `MOST_TASKS` shards as many together as that takes.
    """
    before = np.cumsum(size_bytes) - size_bytes
    total = int(size_bytes.sum())
    share = max(1, min(task_bytes, total // (TASKS_EACH * num_readers)))
    if len(size_bytes) > MOST_TASKS:
        share = max(share, total // MOST_TASKS)
    starts = [0, *(1 + np.flatnonzero(np.diff(before // share))).tolist(), len(size_bytes)]
    return list(pairwise(starts))


def decoded(config: Config, pools: Pools, pending: pa.Table) -> ray.data.Dataset:
    """The chain up to the pixels: rows of `BATCH`."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # see `_stage`
    context.target_max_block_size = pools.block_size * IMAGE_BYTES
    context._max_num_blocks_in_streaming_gen_buffer = BATCHES_UNFETCHED
    ahead = pools.blocks_ahead * (pools.num_labellers + pools.num_decoders) * context.target_max_block_size
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=ahead)
    root = canonical_uri(config.input)
    shards = pa.table({"shard": pending["path"], "uri": [child(root, path) for path in pending["path"].to_pylist()]})
    if "members" in pending.column_names:  # loose images: the group itself goes along
        shards = shards.append_column("group", pending.select(GROUPS.names).to_struct_array())
    blocks = [shards.slice(start, stop - start)
              for start, stop in tasks(pending["size"].to_numpy(), pools.num_decoders * pools.shards_at_once,
                                         pools.task_bytes)]
    reader = (pools.batch_size, pools.decode_threads, config.max_image_pixels, Inputs.of(config), config.reduced_decode)
    return _stage(ray.data.from_arrow(blocks), Reader, reader, min(pools.num_decoders, len(blocks)),
                  pools.shards_at_once, pools.decode_cpus)


def build(config: Config, pools: Pools, pending: pa.Table, sink: Sink, state: Any, labels: list[str],
          device: str) -> ray.data.Dataset:
    """The whole chain: rows of `REPORT`. Nothing runs until the dataset is iterated."""
    labeller = ([state], labels, device, config.precision, pools.label_threads, pools.batch_size)
    labelled = _stage(decoded(config, pools, pending), LabelStage, labeller, pools.num_labellers, BATCHES_AT_ONCE,
                      pools.label_cpus, pools.label_gpus)
    return _stage(labelled, Committer, (sink,), pools.num_labellers, PUTS_AT_ONCE, SINK_CPUS)
