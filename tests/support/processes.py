"""The processes of a running job: which actor is which, and a way to kill them."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

STAGES = ("Committer", "LabelStage", "Reader")
ACTOR = re.compile(rf"MapBatches\(({'|'.join(STAGES)})\)")


def kind_of(process: psutil.Process) -> str:
    """`Reader`, `LabelStage`, `Committer`; `worker` (another actor of Ray); `raylet`, `gcs_server`; `other`; `gone`."""
    try:
        command, name = " ".join(process.cmdline()), process.name()
    except psutil.Error:
        return "gone"
    match = ACTOR.search(command)
    if match:
        return match[1]
    if command.startswith("ray::") and "Agent" not in command:  # the death of an agent ends its raylet
        return "worker"
    return name if name in ("raylet", "gcs_server") else "other"


def by_kind(pid: int) -> dict[str, list[psutil.Process]]:
    """The processes of a run by `kind_of`; the run's own process is `driver`."""
    processes: dict[str, list[psutil.Process]] = {}
    for process in family(pid):
        processes.setdefault("driver" if process.pid == pid else kind_of(process), []).append(process)
    return processes


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return []


def has_ended(pid: int) -> bool:
    """Whether a process runs no more; nobody may have waited for it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process to take it."""
    mask, = re.findall(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def kill(processes: list[psutil.Process]) -> int:
    """Send SIGKILL to processes. Returns how many of them were alive."""
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
    wait_until(lambda: all(not process.is_running() or has_ended(process.pid) for process in processes),
               f"some of {processes} are alive", seconds, 0.2)
