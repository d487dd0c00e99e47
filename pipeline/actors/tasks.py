"""Functions on a cluster: a map whose calls are tasks of Ray.

In: a function and its arguments, which can be pickled. Out: results, in the order of the arguments.
Not here: the stages of the labelling job, which are actors (`graph`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.actors.connect import connect, disconnect
from pipeline.stop import Stop

AHEAD = 2  # tasks for each CPU of the cluster that are handed out at once
MEMORY_BYTES = 2**30  # of a task


@contextmanager
def connected_map() -> Iterator[Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]]:
    """A map on the cluster at RAY_ADDRESS.

    Raises:
        NoCluster: there is no Ray at RAY_ADDRESS.
    """
    stop = Stop()
    is_ours = connect(sys.stderr, stop)
    try:
        yield run_tasks
    finally:
        if is_ours:
            disconnect()


def run_tasks(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """The results of a function for each item, some at once. A task that dies with its node is tried again."""
    import ray

    task: Any = ray.remote(_call).options(num_cpus=1, memory=MEMORY_BYTES, max_retries=3)
    shared = ray.put(function)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = max(1, AHEAD * int(resources.get("CPU", 1)))
    running: list[Any] = []
    for item in items:
        running.append(task.remote(shared, item))
        if len(running) >= most:
            yield ray.get(running.pop(0))
    while running:
        yield ray.get(running.pop(0))


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)
