"""A process that is asked to end: whatever it does at the moment, its last calls are made and it ends in seconds."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.stop import Stop, Stopped
from tests.support.jobs import ROOT
from tests.support.processes import is_pending, wait_until

BUSY = """
import hashlib, sys, threading, time
from pipeline import stop as stops
stops.GRACE_S = 1.0
stop = stops.Stop()
stop.last_calls += [lambda: 1 / 0, lambda: print("given back", flush=True)]
with stop.listening():
    print("ready", flush=True)
    {body}
"""
BODIES = {
    "in C": "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 2**31 - 1)",
    "in an import":
        "sys.meta_path.insert(0, type('Slow', (), {'find_spec': staticmethod(lambda *_: time.sleep(60))})); "
        "import nothing_of_this_name",
    "waiting for a lock":
        "threading.Lock().acquire() and (lock := threading.Lock()).acquire() and lock.acquire()",
    "swallowing":
        "\n    while True:\n        try:\n            time.sleep(60)\n        except BaseException:\n            pass",
}


def begin(body: str) -> subprocess.Popen[str]:
    """Start a process that listens for requests to end, and wait until it executes the body."""
    process = subprocess.Popen([sys.executable, "-c", BUSY.format(body=body)], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    state = psutil.Process(process.pid)
    begun_s = state.cpu_times().user
    wait_until(lambda: state.status() == psutil.STATUS_SLEEPING or state.cpu_times().user > begun_s + 0.1,
               "the body does not begin")
    return process


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_cannot_look_is_ended_after_the_last_calls(body, number):
    process, begun = begin(BODIES[body]), time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number and "given back" in out and "before everything was in order" in err
    assert 0.8 < time.monotonic() - begun < 6


def test_a_second_request_is_not_made_to_wait():
    process, begun = begin("time.sleep(60)"), time.monotonic()
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: not is_pending(process.pid, signal.SIGTERM), "the process does not take the signal", 10)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143 and time.monotonic() - begun < 0.9


def test_who_looks_ends_in_order():
    asked, before = Stop(), signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match="ended by SIGTERM") as caught, asked.listening():
        assert signal.getsignal(signal.SIGINT) is not before
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(asked.check, "the request is not seen", 10)
    assert caught.value.exit_code == 143 and not isinstance(caught.value, Exception)
    asked.over.set()
    assert signal.getsignal(signal.SIGINT) is before
