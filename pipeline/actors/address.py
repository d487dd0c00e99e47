"""Where Ray is: the address of a running cluster, whether something answers there, and a token for a Ray of our own.

In: environment variables, and the files that Ray leaves on this machine. Out: an address; `NoCluster` within a minute.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import time
from pathlib import Path

from pipeline.errors import JobError
from pipeline.stop import Stop

ANSWER_S = 30.0  # for the head to take a connection; it may be starting
TRY_S = 5.0  # for one connection


class NoCluster(JobError):
    """Ray is not there; nothing was labelled."""


def need_answer(address: str, stop: Stop) -> None:
    """Check that something takes connections at the address of a cluster. Ray itself would try for five minutes.

    Raises:
        NoCluster: nothing took a connection for `ANSWER_S`.
        Stopped: the process was asked to end meanwhile.
    """
    if "://" in address or ":" not in address:  # ray:// and auto: only Ray knows the address
        return
    deadline = time.monotonic() + ANSWER_S
    while not takes_connection(address, TRY_S):
        if time.monotonic() > deadline:
            raise NoCluster(f"Ray at RAY_ADDRESS {address} does not answer: nothing has taken a connection for "
                            f"{ANSWER_S:.0f} s; is the cluster up, and is this the port of its GCS (6379)?")
        stop.check()
        time.sleep(1)


def takes_connection(address: str, seconds: float) -> bool:
    """Whether something takes a connection at `host:port` within so many seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), seconds).close()
    except (OSError, ValueError):
        return False
    return True


def read_noted_address() -> str | None:
    """The cluster that `ray start` started last on this machine, as Ray notes it in a file; the cluster may be gone."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def provide_token() -> None:
    """Set RAY_AUTH_TOKEN for a Ray of our own, if Ray has no token and cannot write one into HOME."""
    is_by_token = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if not is_by_token or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
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
            return  # Ray can write a token
    except OSError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
