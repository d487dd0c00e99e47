"""Functions on many processors: a map whose calls run on a cluster of Ray, or on this machine.

In: a function and its arguments, which can be pickled. Out: results, in the order of the arguments.
Not here: the stages of the labelling job, which are actors (`graph`).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from pipeline.actors.connect import connect, disconnect
from pipeline.errors import JobError
from pipeline.stop import Stop

AHEAD = 2  # tasks for each CPU of the cluster that are handed out at once
MEMORY_BYTES = 2**30  # of a task
LARGE_BYTES = 2**31  # if there is more to read, this machine takes processes, whose start takes a second or two

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
OpenMap = Callable[[int], AbstractContextManager[Map]]  # as `choose_map`


def choose_map(num_bytes: int) -> AbstractContextManager[Map]:
    """A map on the cluster at RAY_ADDRESS; or, if that is not set, on the processors of this machine.

    Args:
        num_bytes: that all calls together read; 0: too few to connect for.

    Raises: as `connected_map`.
    """
    return connected_map() if num_bytes and os.environ.get("RAY_ADDRESS") else map_here(num_bytes)


@contextmanager
def connected_map() -> Iterator[Map]:
    """A map on the cluster at RAY_ADDRESS. Raises NoCluster if there is none."""
    stop = Stop()
    is_ours = connect(sys.stderr, stop)
    try:
        yield run_tasks
    finally:
        if is_ours:
            disconnect()


@contextmanager
def map_here(num_bytes: int) -> Iterator[Map]:
    """A map on the processors of this machine. `num_bytes`: as of `choose_map`."""
    workers = max(2, os.cpu_count() or 1)
    pool: Executor
    if num_bytes > LARGE_BYTES:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    else:
        pool = ThreadPoolExecutor(2 * workers)
    with pool:
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)


def run_tasks(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """The results of a function for each item, some at once, by tasks of the connected Ray.

    A task that dies with its node is tried again. A JobError of the function is raised as it is.
    """
    import ray

    task: Any = ray.remote(_call).options(num_cpus=1, memory=MEMORY_BYTES, max_retries=3)
    shared = ray.put(function)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    most = max(1, AHEAD * int(resources.get("CPU", 1)))
    running: list[Any] = []
    for item in items:
        running.append(task.remote(shared, item))
        if len(running) >= most:
            yield _get(running.pop(0))
    while running:
        yield _get(running.pop(0))


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


def _get(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, JobError):
            raise error.cause from error
        raise
