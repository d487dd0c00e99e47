"""Runs a trainer of Ray Train: prints its messages, and ends it if it must end.

In: a trainer, the queue of its messages, the interrupts. Out: the figures of the last epoch, or the error.
The trainer runs in a thread of its own, so that the main thread can check the interrupts.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, wait
from typing import TextIO

from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Queue

from pipeline.actors.connect import disconnect
from pipeline.errors import UserError
from pipeline.store.retry import describe_error
from pipeline.trainer.crops import ShardReport
from pipeline.training.coverage_printer import CoveragePrinter
from pipeline.training.interrupts import Interrupts

CHECK_EVERY_S = 0.2  # whether the training has ended, or must end
LAST_MESSAGES_S = 2.0  # for the last messages to be printed


def run_trainer(trainer: TorchTrainer, messages: Queue, stream: TextIO, interrupts: Interrupts,
                coverage_printer: CoveragePrinter) -> dict[str, float]:
    """Run the trainer. Returns the figures of the last epoch.

    If the training ends early, Ray is disconnected, so no process writes to the folder afterwards.

    Args:
        messages: lines for the user, and `ShardReport`s for `coverage_printer`.

    Raises:
        UserError: the training failed.
        Stopped, Busy: from the interrupts.
    """
    printing = threading.Thread(target=_print_messages, args=(messages, stream, coverage_printer), daemon=True)
    printing.start()
    result: Future[dict[str, float]] = Future()

    def run() -> None:
        try:
            result.set_result(trainer.fit().metrics or {})
        except BaseException as error:  # the main thread raises it
            logging.getLogger(__name__).debug("the trainer raised an error", exc_info=True)
            result.set_exception(error)

    threading.Thread(target=run, name="fit", daemon=True).start()
    try:
        while not result.done():
            interrupts.check()
            wait([result], CHECK_EVERY_S)
    except BaseException:
        _finish_printing(messages, printing)
        disconnect()
        raise
    _finish_printing(messages, printing)
    try:
        return result.result()
    except TrainingFailedError as error:
        causes = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
        raise UserError(f"training failed: {describe_error(next(iter(causes.values())))}.") from error


def _finish_printing(messages: Queue, printing: threading.Thread) -> None:
    """Print the last messages."""
    messages.put(None)
    printing.join(LAST_MESSAGES_S)


def _print_messages(messages: Queue, stream: TextIO, coverage_printer: CoveragePrinter) -> None:
    """Print the lines of the workers, each line once, and the coverage, until the message None."""
    printed = set()
    while (message := messages.get()) is not None:
        if isinstance(message, ShardReport):
            coverage_printer.add(message)
        elif message not in printed:
            printed.add(message)
            print(message, file=stream, flush=True)
    coverage_printer.finish()
