"""One run at a time on an output, and one training on a folder: `<output>/lease.json` names the run, and a deadline.

In: a folder and the id of a run. Out: a `Lease` while the context lasts, which a thread renews; `Busy` if another run
holds the lease. A lease is over at its deadline, or when its process is gone from this machine. The clocks of machines
must agree to `CLOCKS_APART_S`. Without leases the tables are right too: each file is put whole and names the version of
its source. The lease saves work and confusion. Not here: the files that are written under the lease.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import JobError
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.listing import list_input
from pipeline.store.retry import describe_error

LEASE_S, RENEW_S = 60.0, 15.0
CLOCKS_APART_S = 30.0  # the clocks of two machines differ by less
RENEWAL_ENDS_S = 5.0  # a release waits so long for a renewal under way
LOOK_S = 0.2  # between two looks while another run takes an old lease over

_LOGGER = logging.getLogger(__name__)
_Mark = dict[str, Any]  # the content of lease.json: run_id, place, pid, since and until in seconds since 1970


class Busy(JobError):
    """Another run writes to the output."""

    exit_code = 4


class Lease:
    """A lease and its holder. `lost`: why the lease is not ours any more. `release_error`: why it was not released."""

    def __init__(self, folder: str, run_id: str, named: str, without: str) -> None:
        self.folder, self.run_id, self.named, self.without = folder, run_id, named, without
        self.uri = storage.join(folder, "lease.json")
        self.since = time.time()
        self.renewed = time.monotonic()
        self.lost: str | None = None
        self.release_error: str | None = None
        self.ended = threading.Event()
        self.renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raise Busy if another run has taken the lease, because this run did not renew it in time."""
        if self.lost:
            raise Busy(f"{self.named} {self.folder}: this run was out of touch for longer than its lease, and "
                       f"{self.lost}; what it committed is kept.")

    def away_s(self) -> float:
        """Seconds since the store last took a renewal."""
        return time.monotonic() - self.renewed

    def take(self) -> None:
        """Take the lease and begin to renew it. Raises Busy if another run holds the lease."""
        while not storage.put_new(self.uri, self._new_mark()):
            other = self._read_mark()
            if other is None:
                continue
            if not self._is_over(other):
                raise Busy(f"{self.named} {self.folder} is being written by run {other['run_id']} ({other['place']}, "
                           f"process {other['pid']}) since {_format_time(other['since'])}; its lease lasts until "
                           f"{_format_time(other['until'])} if it is not renewed: wait for that run, or give "
                           f"{self.without}.")
            if self.take_over(other):
                break
        self.renewed = time.monotonic()
        self.renewer.start()

    def take_over(self, old: _Mark) -> bool:
        """Replace the mark of a lease that is over; whether this run did, of several that try at once.

        Only the maker of the turn file of a mark may replace that mark. A late maker finds another mark there.
        """
        digest = hashlib.sha256(json.dumps(old, sort_keys=True).encode()).hexdigest()
        turn_file = f"{self.uri}.{digest[:16]}"
        if not storage.put_new(turn_file, json.dumps({"run_id": self.run_id, "since": time.time()}).encode()):
            try:
                since = float(json.loads(storage.read_bytes(turn_file))["since"])
            except (FileNotFoundError, ValueError, KeyError):
                since = time.time()
            if time.time() - since > LEASE_S:  # the other run died while it took the lease over
                storage.remove(turn_file)
            time.sleep(LOOK_S)
            return False
        try:
            mark = self._read_mark()
            if mark is None or {**mark, "until": 0} != {**old, "until": 0} or not self._is_over(mark):
                return False
            storage.put_whole(self.uri, self._new_mark())
        finally:
            storage.remove(turn_file)
        return True

    def release(self) -> None:
        """Leave the folder to other runs. If the store is away, the lease is over at its deadline."""
        is_released = self.ended.is_set()
        self.ended.set()
        self.renewer.join(RENEWAL_ENDS_S)
        if self.lost or is_released:
            return
        try:
            with explaining_errors(self.named, self.folder):
                storage.remove(self.uri)
        except JobError as error:
            self.release_error = describe_error(error.__cause__ or error)

    def _renew(self) -> None:
        while not self.ended.wait(RENEW_S):
            try:
                with explaining_errors(self.named, self.folder):
                    mark = self._read_mark()
                    if mark is None or mark["run_id"] != self.run_id:
                        self.lost = f"run {mark['run_id']} has taken it" if mark else "somebody has removed it"
                        return
                    storage.put_whole(self.uri, self._new_mark())
                self.renewed = time.monotonic()
            except JobError as error:  # the store is away, for other runs too
                _LOGGER.warning("the lease is not renewed: %s", describe_error(error.__cause__ or error))

    def _new_mark(self) -> bytes:
        return json.dumps({"run_id": self.run_id, "place": name_place(), "pid": os.getpid(), "since": self.since,
                           "until": time.time() + LEASE_S}).encode()

    def _read_mark(self) -> _Mark | None:
        """The mark in the store, if there is one. A damaged mark belongs to an unknown run and has no deadline."""
        try:
            data = storage.read_bytes(self.uri)
        except FileNotFoundError:
            return None
        try:
            mark = json.loads(data)
            return {"run_id": str(mark["run_id"]), "place": str(mark["place"]), "pid": int(mark["pid"]),
                    "since": float(mark["since"]), "until": float(mark["until"])}
        except (ValueError, KeyError, TypeError, OverflowError):
            return {"run_id": f"unknown (lease.json is damaged: {hashlib.sha256(data).hexdigest()[:8]})",
                    "place": "nobody knows where", "pid": 0, "since": 0.0, "until": float("inf")}

    def _is_over(self, mark: _Mark) -> bool:
        """Whether the deadline has passed, or the process is gone from this machine.

        A deadline that is too late is set to `LEASE_S` and `CLOCKS_APART_S` after the last renewal.
        """
        now = time.time()
        if mark["until"] > now + LEASE_S:
            mark["until"] = min(mark["until"], self._renewal_time(now) + LEASE_S + CLOCKS_APART_S)
        if mark["until"] < now:
            return True
        if mark["place"] != name_place():
            return False
        try:
            os.kill(mark["pid"], 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
        return False

    def _renewal_time(self, now: float) -> float:
        """When the mark was written, by the clock of the store."""
        try:
            return min(now, float(list_input(self.uri)["changed"][0].as_py()))
        except FileNotFoundError:
            return now


@contextmanager
def hold_lease(folder: str, run_id: str, named: str, without: str) -> Iterator[Lease]:
    """Hold the lease of the folder while the context lasts.

    Args:
        named: how the user named the folder, such as `--output`; messages begin with it.
        without: what the user gives to go on without a lease.

    Raises:
        Busy: another run holds the lease.
        UserError: the folder cannot be written.
    """
    lease = Lease(folder, run_id, named, without)
    with explaining_errors(named, folder):
        lease.take()
    try:
        yield lease
    finally:
        lease.release()


def name_place() -> str:
    """The machine or the container in which the id of this process is valid."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _format_time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(min(max(seconds, 0), 4e9), UTC):%Y-%m-%d %H:%M:%S} UTC"
