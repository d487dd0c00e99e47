"""Processes die in the middle of a run, and the run completes, or says of which shard it did not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.support.jobs import SEED, digest, job, labels
from tests.support.processes import STAGES, by_kind, family, kill, start
from tests.support.s3 import free_ports
from tests.support.tars import make_tar

# Loaded by every Python process of a run: the SHA-256 of bytes that end so kills the process, as a decoder may.
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


@pytest.mark.slow
@pytest.mark.chaos
def test_an_image_that_kills_its_process_fails_its_shard_only(shards, photographs, tmp_path):
    mine = shutil.copytree(shards, tmp_path / "in")
    (mine / "bad.tar").write_bytes(make_tar(*photographs, ("z.jpg", dict(photographs)["china.jpg"] + POISON)))
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)
    options = ("--input", mine, "--output", tmp_path / "out", *SEED, "--batch-size", 4)
    done = job("label", *options, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 1 and "5 labelled, 0 skipped (done before), 1 failed" in done.stdout, done.stdout + done.stderr
    assert "failed    bad.tar: the process that read or labelled it died" in done.stdout
    assert not (tmp_path / "out/_staging").exists() and not list((tmp_path / "out").rglob("bad*"))
    done = job("label", *options)
    assert done.returncode == 0 and "1 labelled, 5 skipped" in done.stdout
    digest(mine, tmp_path / "out")


@pytest.mark.chaos
def test_killed_actors_cost_another_attempt_and_nothing_else(shards, undisturbed, tmp_path):
    output = tmp_path / "out"
    run = start("--input", shards, "--output", output, *SEED, "--batch-size", 4, log=tmp_path / "log")
    killed = 0
    while run.poll() is None:
        if not killed and list(output.glob("_staging/**/*.parquet")):
            found = by_kind(run.pid)
            assert found.keys() >= {*STAGES}
            killed = sum(kill(found[stage]) for stage in STAGES)
        time.sleep(0.02)
    assert killed >= 3 and run.returncode == 0, (tmp_path / "log").read_text()
    assert "attempt 2 of 3" in (tmp_path / "log").read_text()
    assert digest(shards, output) == digest(shards, undisturbed) and labels(output) == labels(undisturbed)
    assert not (output / "_staging").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.chaos)])
def test_a_run_that_is_told_to_end_leaves_order(shards, tmp_path, number):
    output = tmp_path / "out"
    run = start("--input", shards, "--output", output, *SEED, "--batch-size", 1, log=tmp_path / "log")
    while not list(output.glob("_staging/**/*.parquet")):
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(number)
    time.sleep(0.1)
    run.send_signal(signal.SIGSTOP)  # as if a slow store held up the ledger: Ray's handler would abort it after 3 s
    time.sleep(3.5)
    run.send_signal(signal.SIGCONT)
    assert run.wait(30) == 128 + number, (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not (output / "lease.json").exists() and not (output / "_staging").exists()
    row, = pq.read_table(output / "runs", partitioning=None).to_pylist()
    begun = [shard for path in (output / "shards").glob("*") for shard in pq.read_table(path).to_pylist()]  # others have no row
    assert row["status"] == "failed" and row["num_failed"] + row["num_committed"] == len(begun) <= 5


@pytest.mark.chaos
def test_two_runs_at_once(shards, undisturbed, tmp_path):
    output = tmp_path / "out"
    options = ("--input", shards, "--output", output, *SEED, "--batch-size", 4)
    first = start(*options, log=tmp_path / "first")
    while not (output / "lease.json").exists():
        time.sleep(0.05)
    second = job("label", *options)
    assert second.returncode == 4 and "is being written by run" in second.stderr and second.stderr.count("\n") == 1
    third = job("label", *options, "--no-lease")
    assert first.wait() == 0 and third.returncode == 0, third.stdout + third.stderr + (tmp_path / "first").read_text()
    assert digest(shards, output) == digest(shards, undisturbed) and labels(output) == labels(undisturbed)
    assert not list(output.glob("_staging/**/*.parquet")) and not (output / "lease.json").exists()
    job("label", *options)
    assert not (output / "_staging").exists()


@pytest.mark.chaos
@pytest.mark.cluster
def test_a_second_node_is_lost(shards, undisturbed, tmp_path):
    output, folder = tmp_path / "out", f"/tmp/raynodes{tmp_path.stat().st_ino}"
    address = f"127.0.0.2:{free_ports(1)[0]}"  # 127.0.0.1 Ray takes for this machine's outer address
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "NO_PROXY": "127.0.0.2,127.0.0.3"}
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--num-cpus=2"]
    commands = [[*ray, "--head", "--node-ip-address=127.0.0.2", f"--port={address.split(':')[1]}",
                 "--include-dashboard=false", f"--temp-dir={folder}"],
                [*ray, "--node-ip-address=127.0.0.3", f"--address={address}"]]
    nodes = []
    try:
        for command in commands:
            nodes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                          env=os.environ | environ))
            time.sleep(8)
        run = start("--input", shards, "--output", output, *SEED, "--batch-size", 4, "--decoders", 2, "--labellers", 2,
                    log=tmp_path / "log", RAY_ADDRESS=address, **environ)
        lost = 0
        while run.poll() is None:
            if not lost and list(output.glob("_staging/**/*.parquet")):
                found = [process for process in psutil.Process(nodes[1].pid).children(recursive=True)
                         if "raylet" in process.name()]
                lost = kill(found)
            time.sleep(0.05)
        assert lost and run.returncode == 0, (tmp_path / "log").read_text()
        assert "2 nodes" in (tmp_path / "log").read_text()
        assert "--input and --output: a path of this machine, which all 2 nodes must share" in (tmp_path / "log").read_text()
    finally:
        for node in reversed(nodes):
            kill(family(node.pid))
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)
    assert digest(shards, output) == digest(shards, undisturbed) and labels(output) == labels(undisturbed)
