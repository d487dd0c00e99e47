"""Ray, for this process: the cluster that it is told of, or one of its own on this machine.

In: RAY_ADDRESS, or the marks of a Ray on this machine. Out: a connected Ray; `NoCluster` in one sentence, within a minute.
Not here: which nodes it has (`nodes`).
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.errors import JobError
from pipeline.stop import SIGNALS, Stop
from pipeline.store.retry import describe_error

LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"  # of Ray's C++ part
ANSWER_S = 30.0  # for the head to take a connection: it may be starting
TRY_S = 5.0
LOOK_S = 0.02
UP_SOON_S = 4.0
NO_TOKEN = b"InvalidAuthToken"  # so says Ray's C++ part, each second, of a token that the cluster does not take
LOCAL = "local"


class NoCluster(JobError):
    """Ray is not there; nothing was labelled."""

    exit_code = 1


def connect(stream: TextIO, stop: Stop) -> bool:
    """Connect to Ray; whether it was not there before, so that it is to be shut down.

    Raises:
        NoCluster: there is no Ray at RAY_ADDRESS, it refuses the token, or none starts on this machine.
        Stopped: the process was asked to end meanwhile.
    """
    import ray

    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        _need_answer(address, stop)
    elif (found := _noted_address()) is not None and not _answers(found, TRY_S):
        stream.write(f"Ray's files on this machine name a cluster at {found}, and nothing answers there: starting a Ray of this job's own\n")
        address = LOCAL
    if address in (None, LOCAL):
        _provide_token()
    logging.getLogger("ray").setLevel(logging.ERROR)  # it would say that its handler of signals is not set
    started = _Started(lambda: ray.init(LOCAL if address == LOCAL else None, include_dashboard=False, log_to_driver=False,
                                        logging_level=logging.ERROR))
    with _without_greeting() as said:
        started.wait(stop)
    if started.error is not None:  # Ray raises no kind of its own
        raise NoCluster(f"Ray {_where(address)} {_why(started.error, said)}.") from started.error
    return True


def disconnect() -> None:
    """Leave Ray, and end its processes if they are this process's own. Its C++ part sets SIGTERM to what ends a process at once: ours is set again."""
    import ray

    ending = threading.Thread(target=ray.shutdown, name="leave", daemon=True)
    with _keeping_handlers() as set_again:
        ending.start()
        while ending.is_alive():
            ending.join(LOOK_S)
            set_again()


@contextmanager
def _keeping_handlers() -> Iterator[Callable[[], None]]:
    """What sets the handlers of signals as they are now; called once more when the context is left. Only the main thread can."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if threading.current_thread() is threading.main_thread() else {}

    def set_again() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    try:
        yield set_again
    finally:
        set_again()


class _Started:
    """Ray, started in a thread of its own, so that the main one can look whether it shall end.

    The thread stays: Ray's processes end with the thread that started them.
    """

    def __init__(self, start: Callable[[], object]) -> None:
        self.done = threading.Event()
        self.error: Exception | None = None
        threading.Thread(target=self._run, args=(start,), name="ray", daemon=True).start()

    def _run(self, start: Callable[[], object]) -> None:
        try:
            start()
        except Exception as error:  # noqa: BLE001  # told by the main thread
            self.error = error
        self.done.set()
        threading.Event().wait()

    def wait(self, stop: Stop) -> None:
        """Until it is up or has failed. Ray's C++ part sets a handler that aborts the process at SIGTERM: ours is set again."""
        with _keeping_handlers() as set_again:
            asked_at = None
            while not self.done.wait(LOOK_S):
                set_again()
                if stop.signal:
                    asked_at = asked_at or time.monotonic()
                    if time.monotonic() - asked_at > UP_SOON_S:
                        break
        if stop.signal and self.done.is_set() and self.error is None:  # else Ray's processes notice within a minute
            disconnect()
        stop.check()


def _where(address: str | None) -> str:
    return "on this machine" if address in (None, LOCAL) else f"at RAY_ADDRESS {address}"


def _why(error: Exception, said: list[bytes]) -> str:
    """Why Ray is not there: what it raised is less than what its C++ part said."""
    text = describe_error(error, 300)
    if "token" in text.lower() or any(NO_TOKEN in line for line in said):
        return "refuses this process: RAY_AUTH_TOKEN is missing, or is another than the cluster's"
    return f"does not answer or start ({text})"


def _need_answer(address: str, stop: Stop) -> None:
    """Raise NoCluster if nothing takes connections at a cluster's address; Ray itself would try for five minutes."""
    if "://" in address or ":" not in address:  # ray://, auto: Ray knows
        return
    deadline = time.monotonic() + ANSWER_S
    while not _answers(address, TRY_S):
        if time.monotonic() > deadline:
            raise NoCluster(f"Ray at RAY_ADDRESS {address} does not answer: nothing has taken a connection for {ANSWER_S:.0f} s; is the "
                            "cluster up, and is this the port of its GCS (6379)?")
        stop.check()
        time.sleep(1)


def _answers(address: str, seconds: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except (OSError, ValueError):
        return False
    return True


def _noted_address() -> str | None:
    """The cluster that was started last on this machine by `ray start`, as Ray notes it; it may be gone."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _provide_token() -> None:
    """A token for a Ray of our own, where Ray has none and could not write one: it does so in HOME."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        if path.read_text(encoding="utf-8").strip():
            return
    except (OSError, UnicodeDecodeError):
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            return  # Ray can
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _without_greeting() -> Iterator[list[bytes]]:
    """Let Ray's C++ part say nothing but what is fatal, and not even that it was told so; what it said, once the context is left.

    Otherwise the first thing that a user sees is an error about constructor arguments, which is none.
    """
    level = os.environ.get(LOG_LEVEL)
    if level is not None:  # somebody wants to see it
        yield []
        return
    lines: list[bytes] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        os.environ[LOG_LEVEL] = "fatal"
        try:
            yield lines
        finally:
            del os.environ[LOG_LEVEL]
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            lines += said
            os.write(2, b"".join(line for line in lines if LOG_LEVEL.encode() not in line and NO_TOKEN not in line))
