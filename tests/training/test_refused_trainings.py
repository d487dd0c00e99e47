"""What of a training can be refused is refused before Ray starts, in one sentence; mostly before torch is imported."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.commands.app import parse_command
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.inputs.read import Inputs
from pipeline.model.spec import INPUT_SIZE
from pipeline.store import lease
from pipeline.trainer.crops import LABELLED_SHARDS
from pipeline.trainer.recipe import Recipe, check_workers
from pipeline.training.check_enough import MAX_IMAGES_READ, check_enough
from pipeline.training.claim import check_not_overwritten
from pipeline.training.labelled_shards import name_empty_classes
from pipeline.training.train import train
from pipeline.truth.class_ids import make_classes
from pipeline.truth.sources import Examples
from tests.support.jobs import ROOT
from tests.support.toy_training import digits

INPUTS = Inputs(None, None, Config.max_image_bytes, None)

FLAGS = ("--input", "in", "--save", "out")


@pytest.mark.parametrize(("name", "values"), [
    ("epochs", [0, -1, 10**400]), ("batch_size", [1, 0, -8]), ("image_size", [74, 0, 2049]),
    ("learning_rate", [0.0, -1.0, float("nan"), float("inf")]), ("decay_rate", [0.0, 1.1, float("nan")]),
    ("decay_epochs", [0.0, -2.0, float("inf")]), ("warmup_epochs", [-1]),
    ("weight_decay", [-1e-9, float("nan"), float("inf")]),
    ("label_smoothing", [1.0, -0.1, float("nan")]), ("dropout", [1.0, -0.1, float("nan")]),
    ("clip_norm", [0.0, float("inf")]),
    ("ema_decay", [1.0, -0.1, float("nan")]), ("seed", [-1, 2**32])])
def test_numbers_out_of_bounds_are_named(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UserError, match=rf"^--{name.replace('_', '-')} is .*; it must be "):
            Recipe(**{name: value})


def test_the_defaults_and_the_bounds_themselves_are_allowed() -> None:
    assert Recipe().image_size == INPUT_SIZE
    Recipe(epochs=1, batch_size=2, image_size=75, decay_rate=1, weight_decay=0, label_smoothing=0, dropout=0,
           ema_decay=0, seed=2**32 - 1)


def test_workers_that_cannot_share_a_batch() -> None:
    check_workers(Recipe(batch_size=4), 2)
    for batch_size, workers, says in ((4, 0, "--workers is 0"), (4, -1, "--workers is -1"),
                                      (5, 2, "cannot be shared by 2 workers"),
                                      (4, 4, ("leaves each of 4 workers 1: BatchNorm needs at least 2, so take at "
                                             "least 8"))):
        with pytest.raises(UserError, match=says):
            check_workers(Recipe(batch_size=batch_size), workers)


@pytest.mark.parametrize(("options", "says"), [
    (("--holdout", "0"), "--holdout is 0.0; it must be more than 0"), (("--holdout", "1"), "--holdout is 1.0"),
    (("--holdout", "nan"), "--holdout is nan"),
    (("--validation", ""), "--validation is empty"), (("--weights", ""), "--weights is empty"),
    (("--classes", ""), "--classes is empty"),
    (("--truth", ""), "--truth is empty"), (("--validation-truth", "folder"), "--validation, which is not given"),
    (("--validation", "s3:/b/x"), "--validation is 's3:/b/x'"), (("--save", "s3:bucket"), "--save is")])
def test_flags_that_are_wrong_by_themselves(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_command(["train", *FLAGS, *options], {})


@pytest.mark.parametrize(("options", "says"), [
    (("--epochs", "0"), "--epochs is 0; "), (("--batch-size", "1"), "--batch-size is 1; "),
    (("--workers", "0"), "--workers is 0; "),
    (("--max-image-bytes", "0"), "--max-image-bytes is 0; "), (("--holdout", "7"), "--holdout is 7.0; ")])
def test_a_flag_is_refused_within_a_second_or_two(options: tuple[str, ...], says: str) -> None:
    """In half a second; in six where torch and Ray are imported before."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-X", "importtime", ROOT / "jobs/train.py", *FLAGS, *options], cwd=ROOT,
                          capture_output=True,
                          text=True, check=False)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and len(lines) == 1 and lines[0].startswith(f"error: {says}")
    assert not any(line.split("|")[-1].strip() in ("torch", "ray") for line in done.stderr.splitlines())
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("spelling",
                         ["own/weights.safetensors", "./own//weights.safetensors", "link/weights.safetensors", "file",
                          "own/../link.pth"])
def test_the_weights_that_training_begins_with_are_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   spelling: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/weights.safetensors").write_bytes(b"")
    (tmp_path / "link").symlink_to("own")
    (tmp_path / "link.pth").symlink_to("own/weights.safetensors")
    start = f"file://{tmp_path}/own/weights.safetensors" if spelling == "file" else spelling
    for folder in ("own", "own/", "./own", "link", str(tmp_path / "link/"), f"file://{tmp_path}/own",
                   f"file:{tmp_path}/own/"):
        with pytest.raises(UserError, match="would overwrite --weights"):
            train(Examples("in", "folder", INPUTS), None, 0.1, Recipe(), start, None, folder, None, sys.stderr)
    for other, folder in (("own/weights.safetensors", "whole"), ("own/start.pth", "own"), ("seed:0", "own"),
                          ("pretrained", "own"),
                          ("s3://b/own/weights.safetensors", "own")):
        check_not_overwritten(folder, other)
    for start in ("s3://b/own/weights.safetensors", "s3a://b/own/weights.safetensors"):
        with pytest.raises(UserError, match="would overwrite --weights"):
            check_not_overwritten("s3://b/own/", start)


def test_a_store_that_does_not_put_files_whole_is_refused() -> None:
    for folder in ("memory://x", "http://127.0.0.1:9/x"):
        with pytest.raises(UserError, match=f"^--save {folder}: a file put to .* is not whole-or-absent"):
            train(Examples("in", "folder", INPUTS), None, 0.1, Recipe(), None, None, folder, None, sys.stderr)


def shards_of(*targets: int) -> pa.Table:
    row = {"shard": "a.tar", "uri": "a.tar", "size": 1, "keys": [f"k{n}" for n in range(len(targets))],
           "targets": list(targets), "group": None}
    return pa.Table.from_pylist([row], schema=LABELLED_SHARDS)


def test_of_many_images_the_expected_number_counts() -> None:
    classes = make_classes(["a", "b"])
    many = shards_of(*[0, 1] * MAX_IMAGES_READ)
    check_enough(many, INPUTS, 0.5, MAX_IMAGES_READ, classes)
    with pytest.raises(UserError, match=r"of 4,000 images about 2,000 are left to train on \(--holdout 0.5\)"):
        check_enough(many, INPUTS, 0.5, MAX_IMAGES_READ + 1, classes)
    with pytest.raises(UserError, match="--input has 3 images"):
        check_enough(shards_of(0, 0, 1), INPUTS, 0, 4, classes)
    check_enough(shards_of(0, 0, 1), INPUTS, 0, 3, classes)
    assert name_empty_classes({"a": 0, "b": 2}) == ["classes that have no image: a"]
    assert name_empty_classes({"a": 1}) == []


def test_nothing_is_left_of_a_refused_training(tmp_path: Path) -> None:
    examples = Examples(str(digits(tmp_path / "in", 1)), "folder", INPUTS)
    with pytest.raises(UserError, match="--batch-size 6"):
        train(examples, None, 0.1, Recipe(batch_size=6), None, None, str(tmp_path / "out/model"), 1, sys.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("uri", "where", "says"), [
    ("nowhere", "folder", "--validation .*nowhere does not exist"),
    ("empty", "folder", "--validation .*empty holds no tar shards"),
    ("in", "x", "--validation-truth x: it takes"),
    ("in", "member:cls", "--validation-truth member:cls is for tar shards, and images-first of "),
    ("in", "no.csv", "--validation-truth no.csv does not exist")])
def test_what_is_wrong_with_the_validation_names_its_flags(tmp_path: Path, uri: str, where: str, says: str) -> None:
    (tmp_path / "empty").mkdir()
    examples = Examples(str(digits(tmp_path / "in", 1)), "folder", INPUTS)
    with pytest.raises(UserError, match=f"^{says}"):
        train(examples, replace(examples, uri=str(tmp_path / uri), where=where), 0.1, Recipe(batch_size=2), None, None,
              str(tmp_path / "out"), 1, sys.stderr)


def test_a_second_training_of_a_folder_is_refused(tmp_path: Path) -> None:
    examples = Examples(str(digits(tmp_path / "in", 1)), "folder", INPUTS)
    with (
        lease.hold_lease(str(tmp_path / "out"), "r1", "--save", "--no-lease"),
        pytest.raises(lease.Busy, match=r"^--save .* is being written by run r1") as caught,
    ):
        train(examples, None, 0.1, Recipe(batch_size=2), None, None, f"{tmp_path}/out/", 1, sys.stderr)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out/lease.json").exists() and not (tmp_path / "out/training.json").exists()
