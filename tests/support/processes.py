"""The processes of a running job: which actor is which, and a way to kill them."""

import re
import signal
import time
from collections.abc import Callable

import psutil

STAGES = ("Committer", "LabelStage", "Reader")
ACTOR = re.compile(rf"MapBatches\(({'|'.join(STAGES)})\)")


def kind_of(process: psutil.Process) -> str:
    """`Reader`, `LabelStage`, `Committer`; `worker`, another actor of Ray's; `raylet`, `gcs_server`; or `other`."""
    try:
        command, name = " ".join(process.cmdline()), process.name()
    except psutil.Error:
        return "gone"
    match = ACTOR.search(command)
    if match:
        return match[1]
    if command.startswith("ray::") and "Agent" not in command:  # a raylet dies with its agents
        return "worker"
    return name if name in ("raylet", "gcs_server") else "other"


def by_kind(pid: int) -> dict[str, list[psutil.Process]]:
    """The processes of a run by `kind_of`; its own is `driver`."""
    found: dict[str, list[psutil.Process]] = {}
    for process in family(pid):
        found.setdefault("driver" if process.pid == pid else kind_of(process), []).append(process)
    return found


def family(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def kill(processes: list[psutil.Process]) -> int:
    """SIGKILL, at once; the number of those that were alive."""
    number = 0
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
            number += 1
        except psutil.Error:
            pass
    return number


def wait_until(is_so: Callable[[], object], what: str, seconds: float = 120, look_s: float = 0.02) -> None:
    """Wait until a condition holds. Raises AssertionError with `what` after that many seconds."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"after {seconds} s: {what}"
        time.sleep(look_s)


def wait_until_dead(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until none of the processes runs; a zombie runs no more."""
    def alive() -> list[str]:
        return [process.name() for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    wait_until(lambda: not alive(), "processes of the run are alive", seconds, 0.2)
