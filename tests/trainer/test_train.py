"""The job of a training: to its end, through a kill, on two workers as on one."""

import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.model import weights
from pipeline.model.classes import load_classes
from tests.support.jobs import ROOT, job, load_seed
from tests.support.processes import family, kill, wait_until
from tests.support.toy_training import TOY, digits, losses


@pytest.mark.training
def test_an_epoch_on_two_workers(tmp_path):
    """From weights of other classes, with an image that cannot be decoded; what comes out is Inception-v4's."""
    folder = digits(tmp_path / "in", 10)
    (folder / "digit0/broken.png").write_bytes((folder / "digit0/000.png").read_bytes()[:60])
    done = job("train", "--input", folder, "--save", tmp_path / "out", "--epochs", 1, "--holdout", 0.2, *TOY,
               "--workers", 2, "--weights", "seed:0")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("41 images of 4 classes in 1 shards\n")
    assert (
        "the head of --weights is made anew: its 1,000 classes (ImageNet-1k's) are not the 4 that are trained"
        in done.stderr
    )
    assert re.search(r"held out   \d+ images: top-1 \d+\.\d\d % \(95 %: \d+\.\d to \d+\.\d %\), top-5", done.stdout)
    assert done.stderr.count("truth: 41 images: 40 with a truth, 0 without, 1 rejected (truncated 1), of which 1 have "
                             "a truth") == 1
    assert "classes 4: digit0 11, digit1 10, digit2 10, digit3 10\n" in done.stderr
    assert "1 epochs, 2 steps" in done.stdout
    assert len(losses(tmp_path / "out")) == 2
    assert load_classes(str(tmp_path / "out/classes.csv"))["label"].to_pylist() == [f"digit{n}" for n in range(4)]
    model = weights.load(weights.identify(str(tmp_path / "out/weights.safetensors")))
    assert model["last_linear.weight"].shape == (4, 1536)
    seed = load_seed()
    apart = (model["features.0.conv.weight"] - seed["features.0.conv.weight"]).abs().max()
    assert 0 < apart < 0.1  # trained, from there


@pytest.mark.training
def test_a_killed_training_goes_on_and_may_have_more_workers(tmp_path):
    """Killed after an epoch, it is ended by two workers, at the step where it would have ended."""
    command = ("--input", digits(tmp_path / "in", 10), "--save", tmp_path / "out", "--epochs", 4, "--holdout", 0.1,
               *TOY)
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen([sys.executable, ROOT / "jobs/train.py", *map(str, command)], cwd=ROOT, stdout=log,
                                 stderr=log,
                                 env=os.environ | {"PYTHONUNBUFFERED": "1"})
    wait_for_state(tmp_path / "out", first, tmp_path / "log")
    kill(family(first.pid))
    assert first.wait() == -signal.SIGKILL
    done_before = losses(tmp_path / "out")
    again = job("train", *command, "--workers", 2)
    assert again.returncode == 0, again.stderr
    epoch, step = map(int, re.search(r"goes on after epoch (\d), step (\d)", again.stderr).groups())
    assert 1 <= epoch < 4 and step == 2 * epoch
    assert "4 epochs, 8 steps" in again.stdout
    assert losses(tmp_path / "out")[:step] == done_before[:step]
    assert len(losses(tmp_path / "out")) == 8
    nothing = job("train", *command)
    assert nothing.returncode == 0, nothing.stderr
    assert "4 epochs, 8 steps" in nothing.stdout


def started(command: tuple[object, ...], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, ROOT / "jobs/train.py", *map(str, command)], cwd=ROOT, stdout=file,
                                stderr=file)


def wait_for_state(save: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a training has saved a whole state: Ray Train then writes this file."""
    found = save / "state/checkpoint_manager_snapshot.json"
    wait_until(lambda: process.poll() is not None or found.exists(), "no state is saved", 240, 0.1)
    assert process.poll() is None, log.read_text()


@pytest.mark.training
def test_a_killed_worker_is_started_again_and_a_second_training_is_refused(tmp_path):
    """And SIGTERM ends it in order; the lease is given back."""
    log, lease = tmp_path / "log", tmp_path / "out/lease.json"
    command = ("--input", digits(tmp_path / "in", 10), "--save", tmp_path / "out", "--epochs", 1000, "--holdout", 0.1,
               *TOY)
    first = started(command, log)
    try:
        wait_for_state(tmp_path / "out", first, log)
        second = job("train", *command)
        assert second.returncode == 4 and second.stderr.startswith(f"error: --save {tmp_path}/out is being written by "
                                                                   "run "), second.stderr
        assert second.stderr.count("\n") == 1
        workers = [process for process in family(first.pid) if "RayTrainWorker" in " ".join(process.cmdline())]
        assert kill(workers) == 1
        wait_until(lambda: first.poll() is not None or "goes on after epoch" in log.read_text(),
                   "the training does not go on", 240, 0.1)
        assert lease.exists()
        asked = time.monotonic()
        first.terminate()
        assert first.wait(30) == 128 + signal.SIGTERM
        assert time.monotonic() - asked < 15
    finally:
        kill(family(first.pid))
    last_line = log.read_text().splitlines()[-1]
    assert last_line == "ended by SIGTERM; the same command goes on at the last epoch that was finished"
    assert not lease.exists()


@pytest.mark.training
def test_what_would_fail_again_is_not_tried_again(tmp_path):
    with tempfile.TemporaryDirectory(dir="/tmp") as ray:  # a short path: Ray's sockets are in it
        done = job("train", "--input", digits(tmp_path / "in", 10), "--save", tmp_path / "out", "--epochs", 2,
                   "--holdout", 0.1, *TOY,
                   "--learning-rate", 1e30, "--clip-norm", 1e30, "--workers", 2, RAY_TMPDIR=ray)
        logs = "".join(path.read_text(errors="replace") for path in Path(ray).rglob("*.log") if not path.is_symlink())
    assert done.returncode == 2
    assert done.stderr.endswith("error: training failed: the loss is nan at step 2: lower --learning-rate.\n")
    assert "[FailurePolicy] RAISE" in logs and "[FailurePolicy] RETRY" not in logs
    assert not (tmp_path / "out/lease.json").exists()


@pytest.mark.training
def test_where_none_is_held_out_there_is_no_accuracy(tmp_path):
    done = job("train", "--input", digits(tmp_path / "in", 10), "--save", tmp_path / "out", "--epochs", 1, "--holdout",
               1e-6, *TOY,
               "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "  no image is held out: no accuracy  " in done.stderr
    assert "held out   no image is held out: no accuracy\n" in done.stdout and "0.00" not in done.stdout
    with (tmp_path / "out/epochs.csv").open() as file:
        assert [row["top1"] for row in csv.DictReader(file)] == [""]


@pytest.mark.training
def test_the_loss_goes_to_zero_and_two_workers_are_as_one(tmp_path):
    """Within noise: crops come in another order each time, and BatchNorm sees half a batch of two workers."""
    folder = digits(tmp_path / "in", 20)
    for number in (1, 2):
        done = job("train", "--input", folder, "--save", tmp_path / f"{number}", "--holdout", 0.1, *TOY, "--batch-size",
                   24,
                   "--epochs", 36, "--learning-rate", 0.2, "--decay-rate", 0.5, "--decay-epochs", 8, "--ema-decay", 0.9,
                   "--workers", number, timeout_s=900)
        assert done.returncode == 0, done.stderr
    tenths = np.array([[part.mean() for part in np.array_split(losses(tmp_path / name), 10)] for name in "12"])
    print(tenths.round(3).tolist())
    assert len(losses(tmp_path / "1")) == len(losses(tmp_path / "2")) == 108
    assert (tenths[:, 0] > 1.2).all() and (tenths[:, -1] < 0.3).all()  # the logarithm of 4 is 1.39
    assert np.abs(tenths[0] - tenths[1]).mean() < 0.3


@pytest.mark.training
@pytest.mark.s3
def test_a_training_in_a_store_goes_on_there(tmp_path, s3):
    environ, fs = s3
    fs.put(str(digits(tmp_path / "in", 6)) + "/", "photos/digits/", recursive=True)
    options = ("--input", "s3://photos/digits", "--validation", "s3://photos/digits", "--save", "s3://photos/model",
               *TOY)
    for epochs in (1, 2):
        done = job("train", *options, "--epochs", epochs, **environ)
        assert done.returncode == 0, done.stderr
    assert "goes on after epoch 1, step 1" in done.stderr
    assert "2 epochs, 2 steps" in done.stdout
    assert "held out   24 images" in done.stdout
    assert {path.rpartition("/")[2] for path in fs.ls("photos/model")} == {
        "classes.csv", "curves.svg", "epochs.csv", "state", "steps.csv", "training.json", "weights.safetensors"}
