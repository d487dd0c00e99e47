"""Processes die in the middle of a run: the run completes, or says which shard it could not label."""

import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.support.cluster import Cluster
from tests.support.jobs import SEED, digest, job, labels, start_label
from tests.support.processes import STAGES, by_kind, is_pending, kill, wait_until
from tests.support.tars import make_tar

# Every Python process of a run loads this module. The SHA-256 of bytes that end with POISON kills the process, as a
# decoder may.
POISON = b"poison"
SITE = """
import ctypes, hashlib
real = hashlib.sha256
def sha256(data=b"", **options):
    if bytes(data[-6:]) == b"poison":
        ctypes.string_at(0)
    return real(data, **options)
hashlib.sha256 = sha256
"""


def wait_for_pieces(output: Path, run: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the run has staged a piece of a table. Raises AssertionError if the run ends before."""
    wait_until(lambda: run.poll() is not None or list(output.glob("_staging/**/*.parquet")), "no piece is staged")
    assert run.poll() is None, log.read_text()


@pytest.mark.slow
@pytest.mark.chaos
def test_an_image_that_kills_its_process_fails_its_shard_only(shards, photographs, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "in")
    (folder / "bad.tar").write_bytes(make_tar(*photographs, ("z.jpg", dict(photographs)["china.jpg"] + POISON)))
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)
    options = ("--input", folder, "--output", tmp_path / "out", *SEED, "--batch-size", 4)
    done = job("label", *options, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "5 labelled, 0 skipped (done before), 1 failed" in done.stdout
    assert "failed    bad.tar: the process that read or labelled it died" in done.stdout
    assert not (tmp_path / "out/_staging").exists() and not list((tmp_path / "out").rglob("bad*"))
    done = job("label", *options)
    assert done.returncode == 0 and "1 labelled, 5 skipped" in done.stdout
    digest(folder, tmp_path / "out")


@pytest.mark.chaos
def test_killed_actors_cost_another_attempt_and_nothing_else(shards, undisturbed, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    run = start_label("--input", shards, "--output", output, *SEED, "--batch-size", 4, log=log)
    wait_for_pieces(output, run, log)
    processes = by_kind(run.pid)
    assert processes.keys() >= {*STAGES}
    num_killed = sum(kill(processes[stage]) for stage in STAGES)
    assert num_killed >= 3 and run.wait(300) == 0, log.read_text()
    assert "attempt 2 of 3" in log.read_text()
    assert digest(shards, output) == digest(shards, undisturbed) and labels(output) == labels(undisturbed)
    assert not (output / "_staging").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.chaos)])
def test_a_run_that_is_told_to_end_leaves_order(shards, tmp_path, number):
    output, log = tmp_path / "out", tmp_path / "log"
    run = start_label("--input", shards, "--output", output, *SEED, "--batch-size", 1, log=log)
    wait_for_pieces(output, run, log)
    run.send_signal(number)
    wait_until(lambda: not is_pending(run.pid, number), "the run does not take the signal", 30)
    # The run stops, as if a slow store held up the ledger. Ray's handler of signals would abort the run after 3 s.
    run.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    run.send_signal(signal.SIGCONT)
    assert run.wait(30) == 128 + number, log.read_text()
    assert "Traceback" not in log.read_text()
    assert not (output / "lease.json").exists() and not (output / "_staging").exists()
    row, = pq.read_table(output / "runs", partitioning=None).to_pylist()
    begun = [shard for path in (output / "shards").glob("*") for shard in pq.read_table(path).to_pylist()]
    assert row["status"] == "failed" and row["num_failed"] + row["num_committed"] == len(begun) <= 5


@pytest.mark.chaos
def test_two_runs_at_once(shards, undisturbed, tmp_path):
    output = tmp_path / "out"
    options = ("--input", shards, "--output", output, *SEED, "--batch-size", 4)
    first = start_label(*options, log=tmp_path / "first")
    wait_until((output / "lease.json").exists, "the first run takes no lease")
    second = job("label", *options, own_ray=True)
    assert second.returncode == 4 and "is being written by run" in second.stderr and second.stderr.count("\n") == 1
    third = job("label", *options, "--no-lease", own_ray=True)
    assert first.wait(300) == 0, (tmp_path / "first").read_text()
    assert third.returncode == 0, third.stdout + third.stderr
    assert digest(shards, output) == digest(shards, undisturbed) and labels(output) == labels(undisturbed)
    assert not list(output.glob("_staging/**/*.parquet")) and not (output / "lease.json").exists()
    job("label", *options)
    assert not (output / "_staging").exists()


@pytest.mark.chaos
@pytest.mark.cluster
def test_a_second_node_is_lost(shards, undisturbed, tmp_path):
    output, log = tmp_path / "out", tmp_path / "log"
    with Cluster("--num-cpus=2", "--include-dashboard=false") as cluster:
        second = cluster.add("--num-cpus=2")
        run = start_label("--input", shards, "--output", output, *SEED, "--batch-size", 4, "--decoders", 2,
                          "--labellers", 2,
                          log=log, **cluster.driver)
        wait_for_pieces(output, run, log)
        raylets = [process for process in psutil.Process(second.pid).children(recursive=True)
                   if "raylet" in process.name()]
        assert kill(raylets) and run.wait(300) == 0, log.read_text()
    assert "2 nodes" in log.read_text()
    assert "--input and --output: a path of this machine, which all 2 nodes must share" in log.read_text()
    assert digest(shards, output) == digest(shards, undisturbed) and labels(output) == labels(undisturbed)
