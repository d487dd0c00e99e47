"""A request to end: SIGTERM or SIGINT.

In: signals, at any time, also while Ray or torch is imported or waits in C++. Out: `Stop.signal`, which the main
thread checks between its steps and while it waits. The handler of a signal does nothing: an exception of the handler
could be lost in an import. A process that does not end in order within `GRACE_S`, or that is asked a second time, is
ended: it makes the last calls (such as giving the lease back), and exits with 128 and the number of the signal.
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
    """The process was asked to end. It is no Exception, so that no step takes it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


class Stop:
    """Whether the process was asked to end.

    `signal`: the number of the signal, or 0. `last_calls`: functions to call if there is no time to end in order.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.last_calls: list[Callable[[], object]] = []
        self.over = threading.Event()

    def check(self) -> None:
        """Check for a request to end.

        Raises:
            Stopped: there is one.
        """
        if self.signal:
            raise Stopped(self.signal)

    def leave(self) -> NoReturn:
        """End the process, now that all is in order. It does not wait for threads."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(128 + self.signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals in the context. Only the main thread may enter the context."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        former = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(read_end,), name="stop", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            if not self.signal:  # after a signal, `GRACE_S` holds for the rest of the process, too
                self.over.set()
            signal.set_wakeup_fd(former)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(write_end)

    def _watch(self, read_end: int) -> None:
        """Read the numbers that the C handler writes, also while the main thread is inside of C."""
        with open(read_end, "rb", buffering=0) as numbers:
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
        """End the process after the last calls, or after `LAST_CALLS_S`."""
        def call_all() -> None:
            for call in self.last_calls:
                with suppress(Exception):
                    call()

        calling = threading.Thread(target=call_all, daemon=True)
        calling.start()
        calling.join(LAST_CALLS_S)
        with suppress(Exception):
            sys.stderr.write("ended before everything was in order; the next run does what is left\n")
            sys.stderr.flush()
        os._exit(128 + self.signal)
