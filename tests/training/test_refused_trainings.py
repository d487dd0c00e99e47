"""What of a training can be refused is refused before Ray starts, in one sentence; mostly before torch is imported."""

import csv
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from ray.exceptions import RayTaskError, UserCodeException

from pipeline.commands.app import parse_command
from pipeline.commands.train import print_figures
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.read import Inputs
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.model.spec import INPUT_SIZE
from pipeline.model.weights import identify
from pipeline.store import lease
from pipeline.store.explain import explain_error
from pipeline.store.retry import Replaced
from pipeline.trainer.crops import LABELLED_SHARDS
from pipeline.trainer.curves import write_curves
from pipeline.trainer.final_errors import EndAtFinalError, FinalError, is_final, to_final_error
from pipeline.trainer.loop import Worker
from pipeline.trainer.recipe import Recipe, check_workers
from pipeline.training import heads
from pipeline.training.check_enough import MAX_IMAGES_READ, check_enough
from pipeline.training.claim import check_not_overwritten
from pipeline.training.heads import check_num_classes, choose_head
from pipeline.training.labelled_shards import name_empty_classes
from pipeline.training.train import train
from pipeline.truth.class_ids import make_classes
from pipeline.truth.holdout import wilson_interval
from pipeline.truth.sources import Examples
from tests.support.jobs import ROOT
from tests.trainer.test_train import digits

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


def head_of(monkeypatch: pytest.MonkeyPatch, num_outputs: int, path: Path, classes: pa.Table) -> heads.HeadChoice:
    monkeypatch.setattr(weights, "load", lambda _: {"last_linear.weight": torch.zeros(num_outputs, 1)})
    path.write_bytes(b"")
    return choose_head(identify(str(path)), classes)


def save_classes(classes: pa.Table, path: Path) -> None:
    path.write_text(classes.to_pandas().to_csv(index=False))


def test_a_head_is_kept_if_its_classes_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, path = make_classes(["cat", "dog", "n01443537"]), tmp_path / "own.pth"
    found = head_of(monkeypatch, 3, path, ours)
    assert found.is_kept and "no classes.csv beside it says" in found.reason
    found = head_of(monkeypatch, 4, path, ours)
    assert not found.is_kept and found.reason == "made anew: --weights has 4 outputs, and there are 3 classes"
    save_classes(ours, tmp_path / "classes.csv")
    found = head_of(monkeypatch, 3, path, ours)
    assert found == (True, "kept: its 3 classes (classes.csv beside it) are those that are trained")
    for others in (["cat", "cow", "n01443537"], ["cat", "dog", "goldfish"], ["cat", "dog"], ["0", "1", "2"]):
        found = head_of(monkeypatch, 3, path, make_classes(others))
        assert not found.is_kept
        assert found.reason.startswith("made anew: its 3 classes (classes.csv beside it) are not the ")
    turned = ours.set_column(2, "label", pa.array(["dog", "cat", "goldfish"]))
    assert not head_of(monkeypatch, 3, path, turned).is_kept
    with pytest.raises(UserError, match=r"has 1,000 outputs, and the classes.csv beside it names 3 classes"):
        head_of(monkeypatch, 1000, path, ours)
    (tmp_path / "classes.csv").write_text("something else")
    assert head_of(monkeypatch, 3, path, ours).is_kept


def test_a_thousand_outputs_without_a_word_are_imagenets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenet, others = load_classes(), make_classes([f"c{n}" for n in range(1000)])
    assert head_of(monkeypatch, 1000, tmp_path / "a.pth", imagenet).is_kept
    assert not head_of(monkeypatch, 1000, tmp_path / "a.pth", others).is_kept
    for spec in ("seed:0", "pretrained"):
        assert choose_head(identify(spec), imagenet).is_kept
        assert choose_head(identify(spec), others) == (
            False, "made anew: its 1,000 classes (ImageNet-1k's) are not the 1,000 that are trained, in this order")


def test_numbers_of_classes_that_cannot_be_trained() -> None:
    for number in (1, 1001):
        with pytest.raises(UserError, match=f"--classes own.csv has {number:,} class"):
            check_num_classes(pa.table({"label_id": range(number)}), "own.csv")


def test_what_would_fail_again_is_told_from_what_may_pass() -> None:
    for error in (UserError("x."), ValueError("x"), IndexError("Target 9 is out of bounds."), ShardUnreadable("cut"),
                  Replaced("x"),
                  PermissionError(13, "no"), OSError(28, "No space left on device"), torch.OutOfMemoryError("x"),
                  KeyError("a")):
        assert is_final(error), error
    for error in (RuntimeError("Connection closed by peer"), ConnectionResetError(104, "reset"), TimeoutError(),
                  OSError("curl 28"),
                  MemoryError(), explain_error("--save", "s3://b", ConnectionRefusedError(111, "refused"))):
        if isinstance(error, UserError):
            error.__cause__ = ConnectionRefusedError(111, "refused")
        assert not is_final(error), error
    traceback = ("Traceback\npipeline.formats.samples.ShardUnreadable: a.tar: it is cut.\n\nThe above exception was "
                 "the direct cause\nray.exceptions.UserCodeException: UDF failed to process a data block.")
    of_reader = RayTaskError("f", traceback, UserCodeException("UDF failed"))
    assert is_final(of_reader) and str(to_final_error(of_reader)) == "a.tar: it is cut"
    assert not is_final(RayTaskError("f", traceback.replace("pipeline.formats.samples.ShardUnreadable",
                                                            "ConnectionResetError"), UserCodeException("x")))
    assert str(to_final_error(UserError("--save x cannot be used."))) == "--save x cannot be used"
    EndAtFinalError().after_exception(None, {0: RuntimeError("gone")})
    with pytest.raises(FinalError, match="nan"):
        EndAtFinalError().after_exception(None, {0: RuntimeError("gone"), 1: FinalError("the loss is nan")})


def test_curves_of_a_training_without_held_out_images(tmp_path: Path) -> None:
    row = {"epoch": 1, "step": 2, "loss": 1.0, "learning_rate": 0.1, "images_per_s": 9.0, "valid_images": 0.0}
    write_curves([1.5, 0.5], [row, row | {"epoch": 2, "step": 4}], str(tmp_path))
    with (tmp_path / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(found["epoch"], found["valid_loss"], found["top1"], found["top5"])
            for found in rows] == [("1", "", "", ""), ("2", "", "", "")]
    drawing = (tmp_path / "curves.svg").read_text()
    assert "no image is held out" in drawing and "top-1" not in drawing
    write_curves([1.5, 0.5], [row, row | {"valid_loss": 1.0, "top1": 0.5, "top5": 1.0, "valid_images": 4.0}],
                 str(tmp_path))
    drawing = (tmp_path / "curves.svg").read_text()
    assert "top-1" in drawing and "no image is held out" not in drawing


def test_how_sure_an_accuracy_is(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"epoch": 1.0, "step": 2.0, "loss": 1.0, "valid_images": 4.0, "top1": 0.75, "top5": 1.0}
    print_figures(figures, "own")
    assert (
        "held out   4 images: top-1 75.00 % (95 %: 30.1 to 95.4 %), top-5 100.00 % (95 %: 51.0 to 100.0 %)\n"
        in capsys.readouterr().out
    )
    print_figures(figures | {"valid_images": 0.0}, "own")
    assert "held out   no image is held out: no accuracy\n" in capsys.readouterr().out
    assert wilson_interval(0, 0) == (0.0, 1.0)


def judged(*batches: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    """What a worker says of logits and targets; its network does nothing."""
    worker = object.__new__(Worker)
    worker.num_workers, worker.device, worker.autocast = 1, torch.device("cpu"), torch.autocast("cpu", enabled=False)
    worker.ema = cast(Any, SimpleNamespace(module=torch.nn.Identity()))
    worker.batches = lambda _: iter(batches)  # type: ignore[method-assign]
    return worker.validate()


def test_of_none_there_is_no_accuracy_and_equal_classes_are_told_by_their_number() -> None:
    assert judged() == {"valid_images": 0}
    found = judged((torch.zeros(6, 10), torch.arange(6)), (torch.zeros(4, 10), torch.arange(6, 10)))
    assert (found["top1"], found["top5"], found["valid_images"]) == (0.1, 0.5, 10)
    assert found["valid_loss"] == pytest.approx(np.log(10))
    assert judged((torch.tensor([[0.0, 1.0]]), torch.tensor([1])))["top5"] == 1
