"""Reads the truths of shards on a Ray cluster, each shard in a task: no bytes of shards come to the driver."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

import ray

from pipeline.actors.connect import connect
from pipeline.errors import JobError
from pipeline.training.interrupts import Interrupts
from pipeline.truth.read_shards import ListedShard, MapShards, ShardTruths

MAX_RETRIES = 3  # of a task whose process died


def connect_cluster(stream: TextIO, interrupts: Interrupts) -> MapShards:
    """Connect to the cluster. Returns the function that reads shards there."""
    connect(stream, interrupts.stop)
    task = ray.remote(num_cpus=1)(call).options(max_retries=MAX_RETRIES)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    tasks_at_once = 2 * max(1, int(resources.get("CPU", 1)))

    def map_shards(read: Callable[[ListedShard], ShardTruths], shards: Iterable[ListedShard]) -> Iterator[ShardTruths]:
        running: deque[Any] = deque()
        read_reference = ray.put(read)
        for shard in shards:
            running.append(task.remote(read_reference, shard))
            if len(running) == tasks_at_once:
                yield _get(running.popleft())
        while running:
            yield _get(running.popleft())

    return map_shards


def call(read: Callable[[ListedShard], ShardTruths], shard: ListedShard) -> ShardTruths:
    """The function of a task."""
    return read(shard)


def _get(reference: Any) -> ShardTruths:
    """The result of a task. A JobError in the task is raised as it is."""
    try:
        result: ShardTruths = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, JobError):
            raise error.cause from error
        raise
    return result
