"""Tables of reports from Ray, as they come; and what Ray 2.60 needs for that.

In: a dataset of reports. Out: its tables, or None each second in which no table came.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipeline.errors import CaughtError

STOP_S = 3.0  # for Ray to end an execution that is broken off
TABLES_AHEAD = 16  # that wait for the driver's loop
WAIT_S = 1.0


def iterate_reports(dataset: Any) -> Iterator[pa.Table | None]:
    """The tables of reports as they come, and None each second in which no table came, since the caller has other
    things to check.

    A thread of its own asks Ray. When the caller stops early, Ray's execution is stopped, and the thread ends with
    it. An execution that went on would ask for actors and find Ray shut down, which ends the whole process with
    status 1.

    Raises:
        Exception: the error that Ray raised.
    """
    tables: queue.Queue[pa.Table | Exception | None] = queue.Queue(TABLES_AHEAD)
    stopped = threading.Event()
    executors = _record_executors(dataset)

    def offer(item: pa.Table | Exception | None) -> None:
        while not stopped.is_set():
            try:
                return tables.put(item, timeout=WAIT_S)
            except queue.Full:
                continue

    def ask_ray() -> None:
        with CaughtError() as caught:
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                _drop_statistics(executors)
                offer(table)
                if stopped.is_set():
                    return
        offer(caught.error)  # the caller raises it; None: that was the last table

    thread = threading.Thread(target=ask_ray, name="reports", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = tables.get(timeout=WAIT_S)
            except queue.Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        if thread.is_alive():
            for executor in executors:
                executor.shutdown(force=True)
            thread.join(STOP_S)


def _record_executors(dataset: Any) -> list[Any]:
    """The executors that a dataset starts from now on. Ray itself names an executor only after the first block."""
    executors: list[Any] = []
    create = dataset._create_executor

    def create_and_record(*arguments: Any, **options: Any) -> Any:
        executors.append(create(*arguments, **options))
        return executors[-1]

    dataset._create_executor = create_and_record
    return executors


def _drop_statistics(executors: list[Any]) -> None:
    """Drop the statistics that Ray keeps of each block of each operator, some 2 KB: nobody reads them here."""
    for executor in executors:
        for operator in list(executor._topology or ()):
            getattr(operator, "_output_blocks_stats", []).clear()
