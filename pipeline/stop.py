"""A request to end: SIGTERM, SIGINT.

In: signals, whenever they come, also while Ray or torch is imported or waits in C++. Out: `Stop.signal`, which the main thread looks
at between its steps and while it waits. A signal's own handler does nothing: what it raised could be lost inside an import.
Who does not end in order within `GRACE_S`, or is asked a second time, is ended: the last calls are made (give the lease back), and
the process exits with 128 and the signal's number.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

GRACE_S = 8.0  # Kubernetes grants 30, and Ray's own processes need some of them
LAST_CALLS_S = 1.5
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """The process was asked to end. Not an Exception: no step may take it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stop:
    """`signal`: the number of the signal that asks to end, or 0. `last_calls`: what is to be done if there is no time for order."""

    def __init__(self) -> None:
        self.signal = 0
        self.last_calls: list[Callable[[], object]] = []
        self.over = threading.Event()

    def check(self) -> None:
        """Raise Stopped if the process was asked to end."""
        if self.signal:
            raise Stopped(self.signal)

    def leave(self) -> NoReturn:
        """End the process now that all is in order: no thread is waited for."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(128 + self.signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the context lasts. Call it in the main thread."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(reading,), name="stop", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            if not self.signal:  # else what is left of the process has its time too
                self.over.set()
            signal.set_wakeup_fd(former)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(writing)

    def _watch(self, reading: int) -> None:
        """Read the numbers that the C handler writes, also while the main thread is inside of C."""
        with open(reading, "rb", buffering=0) as numbers:
            while data := numbers.read(1):
                if data[0] not in SIGNALS:
                    continue
                if self.signal:
                    self._exit()
                self.signal = data[0]
                threading.Thread(target=self._wait, name="grace", daemon=True).start()

    def _wait(self) -> None:
        if not self.over.wait(GRACE_S):
            self._exit()

    def _exit(self) -> None:
        """End the process, with the last calls, if they do not take long."""
        def call() -> None:
            for last in self.last_calls:
                with suppress(Exception):
                    last()

        calling = threading.Thread(target=call, daemon=True)
        calling.start()
        calling.join(LAST_CALLS_S)
        with suppress(Exception):
            sys.stderr.write("ended before everything was in order; the next run does what is left\n")
            sys.stderr.flush()
        os._exit(128 + self.signal)
