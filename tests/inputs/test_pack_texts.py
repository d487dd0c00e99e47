"""Texts beside an image are packed with it where --members names them; others are counted."""

import os

import pytest

from pipeline.errors import UserError
from pipeline.inputs import pack as packing
from pipeline.inputs.pack import pack
from tests.support.packed import fill, members, shard_bytes, truths


def test_texts_go_along_directly_behind_their_image(tmp_path):
    root = fill(tmp_path / "in", "a/1.jpg", "a/1.cls", "a/1.txt", "a/2.jpg", "a/2.jpg.json", "a/3.JPG", "a/3.JSON",
                "a/b.c.png", "a/b.c.CLS",
                "x.jpg", "x.png", "x.cls", "b/9.cls", "notes", "a/1.heic")
    packed = pack(str(root), str(tmp_path / "out"), 2, "p", ("cls", "JSON"))
    assert members(tmp_path / "out") == ["a/1.jpg", "a/1.cls", "a/2.jpg", "a/2.json", "a/3.jpg", "a/3.json",
                                         "a/b_c.png", "a/b_c.cls",
                                         "x.jpg", "x.cls", "x_2.png", "x_2.cls"]
    assert truths(tmp_path / "out") == {"a/1": "a/1.cls", "a/b_c": "a/b.c.CLS", "x": "x.cls", "x_2": "x.cls"}
    assert truths(tmp_path / "out", "member:json") == {"a/2": "a/2.jpg.json", "a/3": "a/3.JSON"}
    assert (packed.num_images, packed.num_texts) == (6, 6)
    assert packed.sentences() == [
        "3 left out, no images by their names (.cls 1, .heic 1, none 1), such as b/9.cls",
        "1 left out, beside images and not packed (.txt 1), such as a/1.txt; --members cls,json,txt takes them along"]


def test_texts_that_are_not_packed_are_counted_and_change_no_byte(tmp_path):
    root = fill(tmp_path / "in", "a/1.jpg", "a/2.jpg", "b/9.txt")
    pack(str(root), str(tmp_path / "out"), 2, "p")
    before = shard_bytes(tmp_path / "out")
    fill(root, "a/1.cls", "a/2.cls", "a/2.json", "a/1.jpg~")
    packed = pack(str(root), str(tmp_path / "out"), 2, "p")
    assert packed.num_kept == 1 and packed.num_texts == 0 and shard_bytes(tmp_path / "out") == before
    assert packed.sentences() == [
        "1 left out, no images by their names (.txt 1), such as b/9.txt",
        ("4 left out, beside images and not packed (.cls 2, .json 1, none 1), such as a/1.cls; --members cls,json "
        "takes them along")]


def test_of_two_texts_that_would_be_one_member_one_is_packed_and_the_other_is_told(tmp_path):
    packed = pack(str(fill(tmp_path / "in", "1.jpg", "1.CLS", "1.cls", "1.jpg.cls")), str(tmp_path / "out"), 2, "p",
                  ("cls",))
    assert truths(tmp_path / "out") == {"1": "1.jpg.cls"}
    assert packed.sentences() == [("2 left out, would be packed by the same name as another beside their image (.cls "
                                  "2), such as 1.CLS")]


def test_a_changed_text_makes_its_shard_again(tmp_path):
    root = fill(tmp_path / "in", "1.jpg", "1.cls", "2.jpg", "3.jpg", "3.cls")
    assert pack(str(root), str(tmp_path / "out"), 1, "p").num_kept == 0
    assert pack(str(root), str(tmp_path / "out"), 1, "p", ("cls",)).num_kept == 1  # 2.jpg has no text
    before = shard_bytes(tmp_path / "out")
    assert pack(str(root), str(tmp_path / "out"), 1, "p", ("cls",)).num_kept == 3
    (root / "3.cls").write_bytes(b"another class")
    assert pack(str(root), str(tmp_path / "out"), 1, "p", ("cls",)).num_kept == 2
    assert truths(tmp_path / "out") == {"1": "1.cls", "3": "another class"}
    assert {name for name, data in shard_bytes(tmp_path / "out").items() if data != before[name]} == {"p-00002.tar"}
    pack(str(root), str(tmp_path / "again"), 1, "p", ("cls",))
    assert shard_bytes(tmp_path / "again") == shard_bytes(tmp_path / "out")


def test_texts_count_towards_the_size_of_a_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.inputs.pack.SHARD_BYTES", 14)
    root = fill(tmp_path / "in", "1.jpg", "1.cls", "2.jpg", "2.cls")
    assert pack(str(root), str(tmp_path / "out"), 9, "p").num_shards == 1
    assert pack(str(root), str(tmp_path / "other"), 9, "p", ("cls",)).num_shards == 2


@pytest.mark.parametrize(("change", "says"), [
    (lambda path: path.unlink(), "1.cls is gone, or may not be read any more; run it again"),
    (lambda path: path.write_bytes(b"longer than before"), "1.cls was replaced since it was listed; run it again")])
def test_a_text_that_is_not_what_was_listed_is_told(tmp_path, monkeypatch, change, says):
    root, arrange = fill(tmp_path / "in", "1.jpg", "1.cls"), packing.order_members
    monkeypatch.setattr(packing, "order_members", lambda *args: (arrange(*args), change(root / "1.cls"))[0])
    with pytest.raises(UserError, match=says):
        pack(str(root), str(tmp_path / "out"), 2, "p", ("cls",))
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_too_large_is_refused_before_anything_is_written(tmp_path):
    root = fill(tmp_path / "in", "1.jpg", "2.jpg", "2.json")
    os.truncate(root / "2.json", 2**22 + 1)
    with pytest.raises(
        UserError, match=r"2.json has 4,194,305 bytes, and a text beside an image has 4,194,304 at most; take it away"
    ):
        pack(str(root), str(tmp_path / "out"), 1, "p", ("json",))
    assert not (tmp_path / "out").exists() and pack(str(root), str(tmp_path / "out"), 1, "p").num_shards == 2


@pytest.mark.parametrize(("given", "says"), [
    (".cls", "suffixes without their dots"), ("", "it takes suffixes"), ("cls,,txt", "it takes suffixes"),
    ("a/b", "it takes suffixes"),
    ("seg.json", "suffixes without their dots"), ("..", "it takes suffixes"),
    ("cls,JPG", "names jpg, the suffix of images or shards"),
    ("heic", "names heic"), ("tar", "names tar"), ("parquet", "names parquet")])
def test_what_is_no_suffix_of_a_text_is_refused_before_anything_is_listed(tmp_path, given, says):
    with pytest.raises(UserError, match=says) as caught:
        pack(str(tmp_path / "absent"), str(tmp_path / "out"), 1, "p", given.split(","))
    assert str(caught.value).startswith("--members names ")
