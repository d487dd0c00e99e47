"""The processes of a running job: which actor is which, and a way to kill them."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.jobs import ROOT

STAGES = ("Committer", "LabelStage", "Reader")
ACTOR = re.compile(rf"MapBatches\(({'|'.join(STAGES)})\)")


def start(*options: object, log: Path, **environ: str) -> subprocess.Popen[bytes]:
    """Start `jobs/label.py` and go on."""
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, ROOT / "jobs/label.py", *map(str, options)], cwd=ROOT, stdout=out,
                                stderr=out, env=os.environ | environ)


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
