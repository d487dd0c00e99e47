"""One run at a time on an output, one training on a folder: `<output>/lease.json` says which, and until when.

In: an output and a run's id. Out: a `Lease` while the context lasts, renewed by a thread; `Busy` if another run has it.
A lease is over at its deadline, or once its process is gone from this very machine. It saves work and spares confusion;
the tables are right without it too, since a file is put whole and names the version it was made of.
Not here: what is written under the lease. Machines' clocks must agree to half a minute.
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

from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.listing import list_input
from pipeline.store.retry import describe_error

LEASE_S, RENEW_S = 60.0, 15.0
CLOCKS_APART_S = 30.0  # at most, of machines
RENEWAL_ENDS_S = 5.0  # that a renewal under way is waited for
LOOK_S = 0.2  # while another takes over


class Busy(UserError):
    """Another run writes to the output."""

    exit_code = 4


class Lease:
    """A lease as its holder sees it. `lost`: why it is no longer ours, or None. `kept`: why it could not be given back, or None."""

    def __init__(self, folder: str, run_id: str, named: str, without: str) -> None:
        self.folder, self.run_id, self.named, self.without = folder, run_id, named, without
        self.uri = storage.join(folder, "lease.json")
        self.since = time.time()
        self.renewed = time.monotonic()
        self.lost: str | None = None
        self.kept: str | None = None
        self.ended = threading.Event()
        self.renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raise Busy if another run has taken the lease, since this one did not renew it in time."""
        if self.lost:
            raise Busy(f"{self.named} {self.folder}: this run was out of touch for longer than its lease, and {self.lost}; "
                       "what it committed is kept.")

    def away_s(self) -> float:
        """Seconds since the store last took a renewal."""
        return time.monotonic() - self.renewed

    def take(self) -> None:
        """Raise Busy if another run has it."""
        while not storage.put_new(self.uri, self._mark()):
            other = self._read()
            if other is None:
                continue
            if not self._is_over(other):
                raise Busy(f"{self.named} {self.folder} is being written by run {other['run_id']} ({other['place']}, process "
                           f"{other['pid']}) since {_clock(other['since'])}; its lease lasts until "
                           f"{_clock(other['until'])} if it is not renewed: wait for that run, or give {self.without}.")
            if self._take_over(other):
                break
        self.renewed = time.monotonic()
        self.renewer.start()

    def _take_over(self, over: dict[str, Any]) -> bool:
        """Put our mark in place of one that is over; whether it was us who did, of several that try at once.

        Who makes the file that stands for the old mark may replace it. Who comes late makes that file anew, and then finds
        another mark than the one he saw.
        """
        turn = f"{self.uri}.{hashlib.sha256(json.dumps(over, sort_keys=True).encode()).hexdigest()[:16]}"
        mine = json.dumps({"run_id": self.run_id, "since": time.time()}).encode()
        if not storage.put_new(turn, mine):
            try:
                since = float(json.loads(storage.read_bytes(turn))["since"])
            except (FileNotFoundError, ValueError, KeyError):
                since = time.time()
            if time.time() - since > LEASE_S:  # it died in the middle of this
                storage.remove(turn)
            time.sleep(LOOK_S)
            return False
        try:
            there = self._read()
            if there is None or {**there, "until": 0} != {**over, "until": 0} or not self._is_over(there):
                return False
            storage.put_whole(self.uri, self._mark())
        finally:
            storage.remove(turn)
        return True

    def release(self) -> None:
        """Leave the output to others. Where the store is away, the lease is over at its deadline."""
        released = self.ended.is_set()
        self.ended.set()
        self.renewer.join(RENEWAL_ENDS_S)
        if self.lost or released:
            return
        try:
            storage.remove(self.uri)
        except Exception as error:  # noqa: BLE001  # each store has its own exceptions
            self.kept = describe_error(error)

    def _renew(self) -> None:
        while not self.ended.wait(RENEW_S):
            try:
                other = self._read()
                if other is None or other["run_id"] != self.run_id:
                    self.lost = f"run {other['run_id']} has taken it" if other else "somebody has removed it"
                    return
                storage.put_whole(self.uri, self._mark())
                self.renewed = time.monotonic()
            except Exception as error:  # noqa: BLE001  # the store is away; so it is for other runs
                logging.getLogger(__name__).warning("the lease is not renewed: %s", describe_error(error))

    def _mark(self) -> bytes:
        return json.dumps({"run_id": self.run_id, "place": _place(), "pid": os.getpid(), "since": self.since,
                           "until": time.time() + LEASE_S}).encode()

    def _read(self) -> dict[str, Any] | None:
        """The mark as it is; one that cannot be understood is of a run that nobody knows, without a place or an end of its own."""
        try:
            data = storage.read_bytes(self.uri)
        except FileNotFoundError:
            return None
        try:
            mark = json.loads(data)
            return {"run_id": str(mark["run_id"]), "place": str(mark["place"]), "pid": int(mark["pid"]), "since": float(mark["since"]),
                    "until": float(mark["until"])}
        except (ValueError, KeyError, TypeError, OverflowError):
            return {"run_id": f"unknown (lease.json is damaged: {hashlib.sha256(data).hexdigest()[:8]})", "place": "nobody knows where",
                    "pid": 0, "since": 0.0, "until": float("inf")}

    def _is_over(self, mark: dict[str, Any]) -> bool:
        """Whether its deadline has passed, or its process is gone from this machine. No lease lasts longer than `LEASE_S` from its last
        renewal, whatever its mark says."""
        now = time.time()
        if mark["until"] > now + LEASE_S:
            mark["until"] = min(mark["until"], self._renewed_at(now) + LEASE_S + CLOCKS_APART_S)
        if mark["until"] < now:
            return True
        if mark["place"] != _place():
            return False
        try:
            os.kill(mark["pid"], 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            pass
        return False

    def _renewed_at(self, now: float) -> float:
        """When the mark was written, by the store's clock."""
        try:
            return min(now, float(list_input(self.uri)["changed"][0].as_py()))
        except FileNotFoundError:
            return now


@contextmanager
def hold_lease(folder: str, run_id: str, named: str, without: str) -> Iterator[Lease]:
    """The folder's lease, while the context lasts.

    Args:
        named: the flag that names the folder, such as `--output`.
        without: the flag that goes on without a lease.

    Raises:
        Busy: another run has it.
        UserError: the folder cannot be written.
    """
    lease = Lease(folder, run_id, named, without)
    with explaining_errors(named, folder):
        lease.take()
    try:
        yield lease
    finally:
        lease.release()


def _place() -> str:
    """The machine, or the container: where a process id has its meaning."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(min(max(seconds, 0), 4e9), UTC):%Y-%m-%d %H:%M:%S} UTC"
