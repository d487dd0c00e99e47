"""Ray for this process: the cluster at RAY_ADDRESS, or a Ray of our own on this machine.

In: RAY_ADDRESS, or the files of a Ray on this machine. Out: a connected Ray; `NoCluster` in one sentence, within a
minute.
Not here: which nodes the cluster has (`nodes`).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from pipeline.actors.address import TRY_S, NoCluster, need_answer, provide_token, read_noted_address, takes_connection
from pipeline.errors import CaughtError
from pipeline.stop import SIGNALS, Stop
from pipeline.store.retry import describe_error

LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"  # variable of Ray's C++ part
LOOK_S = 0.02
UP_SOON_S = 4.0  # for a Ray that is starting, after the request to end
NO_TOKEN = b"InvalidAuthToken"  # in the lines of Ray's C++ part, each second, if the cluster does not take the token
LOCAL = "local"
SHARED_MEMORY = "/dev/shm"


def connect(stream: TextIO, stop: Stop) -> bool:
    """Connect to Ray.

    Returns:
        Whether this process was not connected before, so that the caller has to call `disconnect`.

    Raises:
        NoCluster: there is no Ray at RAY_ADDRESS, Ray refuses the token, or no Ray starts on this machine.
        Stopped: the process was asked to end meanwhile.
    """
    import ray

    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        need_answer(address, stop)
    elif (noted := read_noted_address()) is not None and not takes_connection(noted, TRY_S):
        stream.write(f"Ray's files on this machine name a cluster at {noted}, and nothing answers there: "
                     "starting a Ray of this job's own\n")
        address = LOCAL
    if address in (None, LOCAL):
        provide_token()
    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that its handler of signals is not set
    start = RayStart(lambda: ray.init(LOCAL if address == LOCAL else None, include_dashboard=False, log_to_driver=False,
                                      logging_level=logging.ERROR))
    with _without_greeting() as lines:
        start.wait(stop)
    if start.error is not None:  # Ray raises no kind of its own
        place = "on this machine" if address in (None, LOCAL) else f"at RAY_ADDRESS {address}"
        raise NoCluster(f"Ray {place} {_explain(start.error, lines)}.") from start.error
    if address in (None, LOCAL):
        store_bytes = ray.cluster_resources().get("object_store_memory", 0)  # type: ignore[no-untyped-call]
        stream.write(note_small_memory(store_bytes, find_free_bytes(SHARED_MEMORY)))
    return True


def note_small_memory(store_bytes: float, free_bytes: int) -> str:
    """A line if the shared memory is too small for Ray's objects, so that Ray keeps them in files; else nothing."""
    if free_bytes >= store_bytes:
        return ""
    gigabytes = store_bytes / 1e9
    return (f"{SHARED_MEMORY} has {free_bytes / 1e6:,.0f} MB, and Ray wants {gigabytes:.1f} GB: it keeps objects in "
            f"{tempfile.gettempdir()}, which is slower; give a container more (--shm-size {gigabytes:.0f}g)\n")


def find_free_bytes(folder: str) -> int:
    """The free bytes of a filesystem; 0 if there is no such folder."""
    try:
        status = os.statvfs(folder)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def disconnect() -> None:
    """Leave Ray, and end its processes if this process started them.

    The C++ part of Ray sets SIGTERM to a handler that ends the process at once; our handlers are set again.
    """
    import ray

    ending = threading.Thread(target=ray.shutdown, name="leave", daemon=True)
    with _keeping_handlers() as set_handlers:
        ending.start()
        while ending.is_alive():
            ending.join(LOOK_S)
            set_handlers()


@contextmanager
def _keeping_handlers() -> Iterator[Callable[[], None]]:
    """A function that sets the handlers of signals as they are now. It runs once more at the end of the context.

    Only the main thread can set handlers; in other threads the function does nothing.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if is_main else {}

    def set_handlers() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    try:
        yield set_handlers
    finally:
        set_handlers()


class RayStart:
    """A start of Ray in a thread of its own, so that the main thread can look for a request to end.

    `error`: why the start failed, or None. The thread stays, since Ray's processes end with the thread that started
    them.
    """

    def __init__(self, start: Callable[[], object]) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        threading.Thread(target=self._run, args=(start,), name="ray", daemon=True).start()

    def _run(self, start: Callable[[], object]) -> None:
        with CaughtError() as caught:
            start()
        self.error = caught.error  # the main thread raises it
        self.done.set()
        threading.Event().wait()

    def wait(self, stop: Stop) -> None:
        """Wait until Ray is up, or its start has failed. Ray's C++ part sets a handler that aborts the process at
        SIGTERM; ours is set again.

        Raises:
            Stopped: the process was asked to end.
        """
        with _keeping_handlers() as set_handlers:
            asked_s = None
            while not self.done.wait(LOOK_S):
                set_handlers()
                if stop.signal:
                    asked_s = asked_s or time.monotonic()
                    if time.monotonic() - asked_s > UP_SOON_S:
                        break
        if stop.signal and self.done.is_set() and self.error is None:  # else Ray's processes notice within a minute
            disconnect()
        stop.check()


def _explain(error: Exception, lines: list[bytes]) -> str:
    """Why Ray is not there. `lines`: of Ray's C++ part, which say more than the error."""
    text = describe_error(error, 300)
    if "token" in text.lower() or any(NO_TOKEN in line for line in lines):
        return "refuses this process: RAY_AUTH_TOKEN is missing, or is another than the cluster's"
    return f"does not answer or start ({text})"


@contextmanager
def _without_greeting() -> Iterator[list[bytes]]:
    """Keep Ray's C++ part silent in the context, except for fatal errors. The list holds its lines once the context
    is left.

    Otherwise the first line that a user sees is an error about constructor arguments, which is none.
    """
    if os.environ.get(LOG_LEVEL) is not None:  # somebody wants to see the lines
        yield []
        return
    lines: list[bytes] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        os.environ[LOG_LEVEL] = "fatal"
        try:
            yield lines
        finally:
            del os.environ[LOG_LEVEL]
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            lines += file
            os.write(2, b"".join(line for line in lines if LOG_LEVEL.encode() not in line and NO_TOKEN not in line))
