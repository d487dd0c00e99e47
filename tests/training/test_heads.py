"""The head of the weights is kept if its classes are those that are trained; else it is made anew."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.model.weights import identify
from pipeline.training import heads
from pipeline.training.heads import check_num_classes, choose_head
from pipeline.truth.class_ids import make_classes


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
