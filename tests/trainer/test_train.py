"""Training: its crops, its recipe, and the job itself: to the end, through a kill, on two workers as on one."""

import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.images.decode import decode
from pipeline.inputs.read import Inputs
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.model.inception_v4 import InceptionV4
from pipeline.model.spec import INPUT_SIZE
from pipeline.trainer.crops import LABELLED_SHARDS, Crops
from pipeline.trainer.network import make_network, make_optimizer
from pipeline.trainer.recipe import Recipe
from pipeline.training.claim import claim_folder
from pipeline.training.train import train
from pipeline.truth.sources import Examples
from tests.support.jobs import ROOT, job
from tests.support.processes import family, kill
from tests.support.tars import make_tar

INPUTS = Inputs(None, None, Config.max_image_bytes, None)
TOY = ("--image-size", 75, "--batch-size", 16, "--label-smoothing", 0, "--dropout", 0, "--no-augment", "--precision",
       "fp32")


def digits(folder: Path, number: int) -> Path:
    """So many pictures of each of the digits 0 to 3, in a folder for each."""
    data = load_digits()
    for digit in range(4):
        (folder / f"digit{digit}").mkdir(parents=True)
        for n, at in enumerate(np.flatnonzero(data.target == digit)[:number]):
            Image.fromarray(np.uint8(data.images[at] * 15)).resize((96, 96)).save(folder / f"digit{digit}/{n:03}.png")
    return folder


def losses(folder: Path) -> list[float]:
    with (folder / "steps.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def crops(tmp_path, members, side="train", holdout=0.0, size=75, augment=False):
    """What the stage makes of a tar of these members, all of class 3; and what it tells."""
    (tmp_path / "a.tar").write_bytes(make_tar(*members))
    keys = [name.rpartition(".")[0] for name, _ in members]
    row = {"shard": "a.tar", "uri": str(tmp_path / "a.tar"), "size": 1, "keys": keys, "targets": [3] * len(keys),
           "group": None}
    said = []
    stage = Crops(INPUTS, size, side, holdout, augment, 2, SimpleNamespace(put=said.append))
    return list(stage(pa.Table.from_pylist([row], schema=LABELLED_SHARDS))), said


def test_validation_crops_are_those_of_labelling(tmp_path, photographs):
    jpegs = [(name, data) for name, data in photographs if name.endswith("jpg")]
    (block,), _ = crops(tmp_path, jpegs, size=INPUT_SIZE)
    slot_HWC = np.empty((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    for (_, encoded), crop_HWC in zip(jpegs, block["image"], strict=True):
        decode(encoded, slot_HWC, max_pixels=10**9, max_bytes=10**9, reduce=False)
        apart = np.abs(crop_HWC.astype(int) - slot_HWC)
        assert apart.mean() < 0.05 and apart.max() <= 3
    assert block["target"].tolist() == [3] * len(jpegs)


def test_training_crops_differ_from_time_to_time(tmp_path, photographs):
    (first,), _ = crops(tmp_path, photographs, augment=True)
    (second,), _ = crops(tmp_path, photographs, augment=True)
    assert first["image"].shape == (len(photographs), 75, 75, 3) and first["image"].dtype == np.uint8
    assert (first["image"] != second["image"]).any((1, 2, 3)).all()


def test_each_image_is_trained_on_or_held_out(tmp_path):
    members = []
    for n in range(150):
        Image.new("RGB", (80, 80), (n, 0, 0)).save(tmp_path / "x.png")
        members.append((f"k{n}.png", (tmp_path / "x.png").read_bytes()))
    reds = {side: [int(image[0, 0, 0]) for block in crops(tmp_path, members, side, 0.3)[0] for image in block["image"]]
            for side in ("train", "valid")}
    assert sorted(reds["train"] + reds["valid"]) == list(range(150))
    assert 25 < len(reds["valid"]) < 65


def test_what_cannot_be_decoded_is_told(tmp_path, photographs):
    blocks, (seen,) = crops(tmp_path, [*photographs[:2], ("broken.jpg", photographs[3][1][:2000])])
    assert sum(len(block["image"]) for block in blocks) == 2
    assert seen.rejected == {("truncated", 3): 1} and len(seen.targets_of) == 2 and seen.failed is None


def test_the_schedule_and_what_decays():
    recipe = Recipe(warmup_epochs=0)
    optimizer, schedule = make_optimizer(recipe, make_network(recipe, 4, None))
    seen = []
    for epoch in range(6):
        schedule.step(epoch)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.045, 0.045, 0.045 * 0.94, 0.045 * 0.94, 0.045 * 0.94**2, 0.045 * 0.94**2])
    decays = {group["weight_decay"]: sum(tensor.ndim == 1 for tensor in group["params"])
              for group in optimizer.param_groups}
    assert (
        decays[4e-5] == 0 and decays[0.0] == 2 * 149 + 1
    )  # a weight and a bias of each BatchNorm, and the head's bias
    assert (optimizer.param_groups[0]["eps"], optimizer.param_groups[0]["alpha"],
            optimizer.param_groups[0]["momentum"]) == (
        1.0, 0.9, 0.9)


def test_the_network_that_is_trained_is_the_one_that_labels():
    state = weights.load(weights.identify("seed:0"))
    trained, labels = make_network(Recipe(), 1000, state, keep_head=True).eval(), InceptionV4().eval()
    labels.load_state_dict(state, strict=False)
    image_NCHW = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(trained(image_NCHW), labels(image_NCHW)[1], atol=1e-4)
    other = make_network(Recipe(), 4, state)
    assert other.last_linear.weight.shape == (4, 1536)
    assert torch.equal(other.features[0].conv.weight, state["features.0.conv.weight"])


def test_a_folder_holds_one_training(tmp_path):
    claim_folder(str(tmp_path), {"recipe": {"seed": 0, "dropout": 0.2}, "input": "a"})
    claim_folder(str(tmp_path), {"recipe": {"seed": 0, "dropout": 0.2}, "input": "a"})
    with pytest.raises(UserError, match="another input and dropout"):
        claim_folder(str(tmp_path), {"recipe": {"seed": 0, "dropout": 0}, "input": "b"})


@pytest.mark.parametrize(("change", "message"), [
    ({"where": "member:cls"}, "is for tar shards"),
    ({"start": "seed:x"}, "--weights seed:x"),
    ({"recipe": Recipe(batch_size=6)}, "--batch-size 6: --input has 4 images with a truth"),
    ({"recipe": Recipe(batch_size=4)}, r"--batch-size 4: of 4 images 3 are left to train on \(--holdout 0.4\)"),
    ({"recipe": Recipe(batch_size=2)}, r"--holdout 0.4: of class 'digit3' no image is left to train on; add images"),
    ({"classes_path": str(ROOT / "pipeline/model/imagenet_1k.csv")},
     "'digit0' is no wnid, label or label_id of the model's 1000"),
])
def test_what_does_not_fit(tmp_path, change, message):
    given = {"recipe": Recipe(batch_size=4), "where": "folder", "start": None, "classes_path": None} | change
    examples = Examples(str(digits(tmp_path / "in", 1)), given["where"], INPUTS)
    with pytest.raises(UserError, match=message):
        train(examples, None, 0.4, given["recipe"], given["start"], given["classes_path"], str(tmp_path / "out"), 1,
              sys.stderr)


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
    seed = weights.load(weights.identify("seed:0"))
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
    until = time.monotonic() + 120
    while not (tmp_path / "out/state/checkpoint_manager_snapshot.json").exists():  # Ray Train's, once a state is whole
        assert first.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
        time.sleep(0.1)
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


def wait_for(found: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not found():
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.2)


@pytest.mark.training
def test_a_killed_worker_is_started_again_and_a_second_training_is_refused(tmp_path):
    """And SIGTERM ends it in order; the lease is given back."""
    log, lease = tmp_path / "log", tmp_path / "out/lease.json"
    command = ("--input", digits(tmp_path / "in", 10), "--save", tmp_path / "out", "--epochs", 1000, "--holdout", 0.1,
               *TOY)
    first = started(command, log)
    try:
        wait_for((tmp_path / "out/state/checkpoint_manager_snapshot.json").exists, first, log)
        second = job("train", *command)
        assert second.returncode == 4 and second.stderr.startswith(f"error: --save {tmp_path}/out is being written by "
                                                                   "run "), second.stderr
        assert second.stderr.count("\n") == 1
        workers = [process for process in family(first.pid) if "RayTrainWorker" in " ".join(process.cmdline())]
        assert kill(workers) == 1
        wait_for(lambda: "goes on after epoch" in log.read_text(), first, log)
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
                   "--workers", number)
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
