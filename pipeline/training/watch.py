"""A training under way: what it tells is shown, and it ends when it shall.

In: what Ray Train is to run; a signal, a lease. Out: the figures of the last epoch, or why there are none.
Ray Train runs in a thread of its own, so that the main thread can look whether it shall end.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import TextIO

from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Queue

from pipeline.actors.connect import disconnect
from pipeline.errors import UserError
from pipeline.store.retry import describe_error
from pipeline.trainer.crops import Seen
from pipeline.training.begin import Watch
from pipeline.training.labelled_shards import ShownOnce

LOOK_S = 0.2  # whether training is over, or shall be
TOLD_S = 2.0  # for the last lines to be shown


def fit(trainer: TorchTrainer, lines: Queue, stream: TextIO, watch: Watch, covered: ShownOnce) -> dict[str, float]:
    """The figures of the last epoch; `covered` is told what the readers see. Ray is left if training ends before: nobody writes to the folder any more."""
    shown = threading.Thread(target=_show, args=(lines, stream, covered), daemon=True)
    shown.start()
    ended: Future[dict[str, float]] = Future()

    def run() -> None:
        try:
            ended.set_result(trainer.fit().metrics or {})
        except BaseException as error:  # noqa: BLE001  # told by the main thread
            ended.set_exception(error)

    threading.Thread(target=run, name="fit", daemon=True).start()
    try:
        while not ended.done():
            watch.look()
            wait([ended], LOOK_S)
    except BaseException:
        _end(lines, shown)
        disconnect()
        raise
    _end(lines, shown)
    try:
        return ended.result()
    except TrainingFailedError as error:
        causes = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
        raise UserError(f"training failed: {describe_error(next(iter(causes.values())))}.") from error


def _end(lines: Queue, shown: threading.Thread) -> None:
    """Show the last lines."""
    lines.put(None)
    shown.join(TOLD_S)


def _show(lines: Queue, stream: TextIO, covered: ShownOnce) -> None:
    """Print what workers tell, each line once, and what readers have seen, until None comes."""
    said = set()
    while (line := lines.get()) is not None:
        if isinstance(line, Seen):
            covered.add(line)
        elif line not in said:
            said.add(line)
            print(line, file=stream, flush=True)
    covered.show()
