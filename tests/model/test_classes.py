"""The classes: ImageNet-1k as packaged, and a user's own CSV."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from timm.data import ImageNetInfo
from torchvision.models._meta import _IMAGENET_CATEGORIES

from pipeline.errors import UserError
from pipeline.model.classes import load_classes

GOOD = "label_id,wnid,label\n1,,dog\n0,n02121808,\"cat, tame\"\n"


def test_imagenet_is_torchvisions_names_and_timms_synsets() -> None:
    classes = load_classes()
    assert classes.schema == pa.schema([("label_id", pa.int16()), ("wnid", pa.string()), ("label", pa.string())])
    assert classes["label_id"].to_pylist() == list(range(1000))
    assert classes["label"].to_pylist() == _IMAGENET_CATEGORIES
    assert classes["wnid"].to_pylist() == ImageNetInfo("imagenet-1k").label_names()
    cranes = {label_id: (classes["wnid"][label_id].as_py(), classes["label"][label_id].as_py())
              for label_id in (134, 517)}
    assert cranes == {134: ("n02012849", "crane bird"), 517: ("n03126707", "crane")}


def test_a_csv_of_ones_own_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "pets.csv"
    path.write_text("\ufeff" + GOOD, encoding="utf-8")
    assert load_classes(str(path)).to_pydict() == {
        "label_id": [0, 1], "wnid": ["n02121808", None], "label": ["cat, tame", "dog"]}


def test_a_uri() -> None:
    with fsspec.open("memory://classes/pets.csv", "wb") as file:
        file.write(GOOD.encode())
    assert load_classes("memory://classes/pets.csv")["label"].to_pylist() == ["cat, tame", "dog"]


@pytest.mark.parametrize(("content", "reason"), [
    ("id,label\n0,cat\n", "has columns 'id,label'"),
    ("label_id,wnid,label\n", "has 0 classes"),
    ("", "has columns ''"),
    ("label_id,wnid,label\n0,,cat\n2,,dog\n", "row 3, has label_id '2'"),
    ("label_id,wnid,label\n0,,cat\n0,,dog\n", "row 3, has label_id 0 a second time"),
    ("label_id,wnid,label\n0,,cat\n-1,,dog\n", "row 3, has label_id '-1'"),
    ("label_id,wnid,label\n0,,cat\none,,dog\n", "row 3, has label_id 'one'"),
    ("label_id,wnid,label\n0,,\n", "row 2, has an empty label"),
    ("label_id,wnid,label\n0,cat\n", "row 2, does not have three fields"),
    ("label_id,wnid,label\n0,,cat,tame\n", "row 2, does not have three fields"),
    ("label_id,wnid,label\n0,,\"cat\n", "is not a CSV in UTF-8"),
    ("label_id,wnid,label\n0,,caf\xe9\n", "is not a CSV in UTF-8"),
])
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError) as failure:
        load_classes(str(path))
    message = str(failure.value)
    assert message.startswith(f"--classes {path}") and reason in message and message.endswith(".")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--classes .*missing.csv does not exist"):
        load_classes(str(tmp_path / "missing.csv"))
