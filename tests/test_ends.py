"""Ends that are not in order: a request to end in any phase, a cluster that is not there, a store that goes away."""

import os
import random
import signal
import socket
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipeline import stop
from pipeline.actors import address
from pipeline.actors.address import NoCluster
from pipeline.stop import Stop, Stopped
from pipeline.store import lease, retry, storage
from pipeline.store.lease import hold_lease
from tests.support.jobs import SEED, job, start_label
from tests.support.processes import family, wait_until, wait_until_dead
from tests.support.s3 import free_ports
from tests.support.tars import make_tar

TRIES = 20

def test_a_cluster_that_is_not_there_is_said_within_a_minute(tmp_path, monkeypatch):
    """Nothing listens; something listens that is no Ray's; the name is no host's."""
    monkeypatch.setattr(address, "ANSWER_S", 0.5)
    monkeypatch.setattr(address, "TRY_S", 0.2)
    for place in (f"127.0.0.1:{free_ports(1)[0]}", "no.such.host.invalid:6379"):
        with pytest.raises(NoCluster, match=r"Ray at RAY_ADDRESS .* does not answer"):
            address.need_answer(place, Stop())
    with socket.create_server(("127.0.0.1", 0)) as server:
        address.need_answer(f"127.0.0.1:{server.getsockname()[1]}", Stop())
    with pytest.raises(Stopped):
        asked = Stop()
        asked.signal = signal.SIGTERM
        address.need_answer(f"127.0.0.1:{free_ports(1)[0]}", asked)


def test_files_of_a_cluster_that_is_gone_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert address.read_noted_address() is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1\n")
    assert address.read_noted_address() == "127.0.0.1:1" and not address.takes_connection("127.0.0.1:1", 0.2)


def test_a_home_that_cannot_be_written_needs_no_token_there(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is unset again after the test, too
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file/home"))
    address.provide_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    address.provide_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_lease_that_cannot_be_given_back_raises_nothing(tmp_path, monkeypatch):
    with hold_lease(str(tmp_path), "r1", "--output", "--no-lease") as mine:
        monkeypatch.setattr(storage, "remove", lambda _: (_ for _ in ()).throw(OSError(5, "the store is away")))
    assert mine.release_error == "the store is away"


def test_once_the_store_is_known_to_be_away_nothing_is_tried_again(monkeypatch):
    calls = []

    def fail() -> None:
        calls.append(1)
        raise TimeoutError

    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    with pytest.raises(TimeoutError):
        retry.with_retries(fail)
    assert len(calls) == retry.TRIES
    with pytest.raises(TimeoutError), retry.without_retries():
        retry.with_retries(fail)
    assert len(calls) == retry.TRIES + 1


@pytest.mark.slow
def test_the_job_starts_a_ray_of_its_own_where_one_has_gone(photographs, tmp_path):
    """Also where HOME cannot be written. Ray's default folder is not touched."""
    (tmp_path / "in").mkdir()
    (tmp_path / "ray").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1\n")
    (tmp_path / "in/a.tar").write_bytes(make_tar(("a.jpg", dict(photographs)["china.jpg"])))
    short = Path(f"/tmp/r{tmp_path.stat().st_ino}")  # Ray's sockets have long names
    short.symlink_to(tmp_path)
    try:
        done = job("label", "--input", tmp_path / "in", "--output", tmp_path / "out", *SEED,
                   RAY_TMPDIR=str(short), HOME=str(tmp_path / "file/home"))
    finally:
        short.unlink()
    assert done.returncode == 0 and "1 labelled" in done.stdout, done.stdout + done.stderr
    assert "name a cluster at 127.0.0.1:1, and nothing answers there" in done.stderr


def state_of(output: Path) -> tuple[int, int, int, list[str]]:
    """Images in tables, in the ledger's committed shards, in the runs' rows; and the runs' statuses."""
    tables = sum(pq.read_metadata(path).num_rows for path in output.glob("labels/**/*.parquet"))
    shards = [row for path in output.glob("shards/*.parquet") for row in pq.read_table(path).to_pylist()]
    runs = [row for path in sorted(output.glob("runs/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return (tables, sum(row["num_images"] for row in shards if row["status"] == "committed"),
            sum(row["num_images"] for row in runs), [row["status"] for row in runs])


def write_shards(folder: Path, number: int, photographs: list[tuple[str, bytes]]) -> None:
    """Some shards of three copies of the small photographs."""
    folder.mkdir()
    small = [(name, data) for name, data in photographs if len(data) < 200_000]
    content = make_tar(*((f"{copy}/{name}", data) for copy in range(3) for name, data in small))
    for shard in range(number):
        (folder / f"{shard:02}.tar").write_bytes(content)


@pytest.mark.chaos
def test_a_request_to_end_at_any_moment(photographs, tmp_path):
    """Each try ends within 10 s and gives the lease back, and the next run's rows agree with the tables."""
    write_shards(tmp_path / "in", 6, photographs)
    options = ("--input", tmp_path / "in", *SEED, "--batch-size", "4")
    begun = time.monotonic()
    assert job("label", *options, "--output", tmp_path / "whole", own_ray=True).returncode == 0
    lasts_s, rng, output = time.monotonic() - begun, random.Random(7), tmp_path / "out"
    processes: list[psutil.Process] = []
    print(f"a whole run takes {lasts_s:.1f} s")
    for number in range(TRIES):
        at_s, log = rng.uniform(1.0, lasts_s * 0.9), tmp_path / f"log-{number}"
        run = start_label(*options, "--output", output, log=log)
        time.sleep(at_s)  # the moment is random
        processes += family(run.pid)
        run.send_signal(rng.choice(stop.SIGNALS))
        asked = time.monotonic()
        code = run.wait(timeout=30)
        took_s, text = time.monotonic() - asked, log.read_text()
        tables, shards, runs, statuses = state_of(output)
        print(f"{number:2} at {at_s:4.1f} s: exit {code} after {took_s:4.1f} s; {tables} images in tables, "
              f"{shards} in shards, {runs} in runs; {statuses[-1:]}; {text.strip().rpartition(chr(10))[2][:70]}")
        assert took_s < 10 and code in (143, 130, 0, -15, -2) and "Traceback" not in text, text
        assert not (output / "lease.json").exists() or code in (-15, -2)
        assert code == 0 or "in order" in text or tables == shards == runs
        if code == 0:
            output = tmp_path / f"out-{number}"
    wait_until_dead(processes, 90)  # a process that Ray was just starting notices the end within a minute
    assert job("label", *options, "--output", output).returncode == 0
    assert job("verify", "--input", tmp_path / "in", "--output", output).returncode == 0
    assert lease.LEASE_S == 60


IN_PHASE = """
import runpy, sys, time
phase, mark = sys.argv[1:3]
sys.argv = ["jobs/label.py", *sys.argv[3:]]

def reached(*_, **__):
    open(mark, "w").close()

def before(owner, name, seconds):
    real = getattr(owner, name)
    def wrapped(*arguments, **named):
        reached()
        time.sleep(seconds)
        return real(*arguments, **named)
    setattr(owner, name, wrapped)

def find_spec(name, *_):
    if name == "ray":
        reached()

import pipeline.run.attempts, pipeline.actors.connect, pipeline.report.render, pipeline.run.night, pipeline.run.tally
if phase == "planning":
    before(pipeline.run.night, "plan_run", 1)
elif phase == "importing":
    sys.meta_path.insert(0, type("Mark", (), {"find_spec": staticmethod(find_spec)}))
elif phase == "connecting":
    before(pipeline.actors.connect.RayStart, "wait", 0)
elif phase == "waiting for nodes":
    import pipeline.actors.nodes
    pipeline.actors.nodes.live_nodes = lambda: []
    before(pipeline.actors.nodes, "find_nodes", 0)
elif phase == "starting actors":
    before(pipeline.run.attempts, "label_once", 0)
elif phase == "labelling":
    before(pipeline.run.attempts.Progress, "add", 0)
elif phase == "committing":
    before(pipeline.run.tally.Tally, "settle", 1)
else:
    before(pipeline.report.render, "render_page", 1)
runpy.run_path("jobs/label.py", run_name="__main__")
"""


PHASES = {"planning": signal.SIGTERM, "importing": signal.SIGINT, "connecting": signal.SIGTERM,
          "waiting for nodes": signal.SIGINT, "starting actors": signal.SIGTERM, "labelling": signal.SIGINT,
          "committing": signal.SIGTERM, "reporting": signal.SIGINT}


@pytest.mark.chaos
@pytest.mark.parametrize(("phase", "number"), PHASES.items())
def test_a_request_to_end_in_each_phase(phase, number, photographs, tmp_path):
    """The run ends within 10 s and in order: no lease is left, ledger and runs agree with the tables.

    Both signals have the same handler, so each phase is tried with one of the two signals.
    """
    write_shards(tmp_path / "in", 3, photographs)
    mark, log = tmp_path / "mark", tmp_path / "log"
    environ = {"RAY_ADDRESS": "local"} if phase == "waiting for nodes" else {}
    run = start_label(phase, mark, "--input", tmp_path / "in", "--output", tmp_path / "out", *SEED, "--batch-size", "4",
                      log=log,
                      program=("-c", IN_PHASE), **environ)
    wait_until(lambda: run.poll() is not None or mark.exists(), "the phase is not reached", look_s=0.01)
    assert run.poll() is None, log.read_text()
    time.sleep(0.2)  # the mark is set just before the phase begins
    processes = family(run.pid)
    run.send_signal(number)
    asked = time.monotonic()
    code = run.wait(timeout=30)
    took_s, text = time.monotonic() - asked, log.read_text()
    tables, shards, runs, statuses = state_of(tmp_path / "out")
    has_lease = (tmp_path / "out/lease.json").exists()
    print(f"| {phase} | {signal.Signals(number).name} | {took_s:.1f} s | {code} | {tables} images in tables, "
          f"{shards} in shards, {runs} in runs {statuses} | lease {'left' if has_lease else 'given back'} |")
    assert took_s < 10 and code in (128 + number, 0) and "Traceback" not in text, text
    assert not has_lease and tables == shards == runs and "running" not in statuses
    if phase in ("planning", "importing", "connecting", "waiting for nodes"):
        assert not statuses and not list((tmp_path / "out").glob("runs/*")), "a run that has not begun leaves nothing"
    wait_until_dead(processes, 60)  # a process that Ray was just starting notices the end within a minute
