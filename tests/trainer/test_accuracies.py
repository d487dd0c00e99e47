"""The accuracies of a training are told with their bounds, or not at all where no image is held out."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from pipeline.commands.train import print_figures
from pipeline.trainer.curves import LossCurve, write_curves
from pipeline.trainer.loop import Worker
from pipeline.truth.holdout import wilson_interval

LOSSES = LossCurve(points=[1.5, 0.5])


def test_curves_of_a_training_without_held_out_images(tmp_path: Path) -> None:
    row = {"epoch": 1, "step": 2, "loss": 1.0, "learning_rate": 0.1, "images_per_s": 9.0, "valid_images": 0.0}
    write_curves(LOSSES, [row, row | {"epoch": 2, "step": 4}], str(tmp_path))
    with (tmp_path / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(found["epoch"], found["valid_loss"], found["top1"], found["top5"])
            for found in rows] == [("1", "", "", ""), ("2", "", "", "")]
    drawing = (tmp_path / "curves.svg").read_text()
    assert "no image is held out" in drawing and "top-1" not in drawing
    write_curves(LOSSES, [row, row | {"valid_loss": 1.0, "top1": 0.5, "top5": 1.0, "valid_images": 4.0}],
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
