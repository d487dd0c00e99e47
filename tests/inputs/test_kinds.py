"""The table of the kinds of shards: every format is in it, and a shard's name alone says its kind."""

from typing import get_args

import pytest

from pipeline.config import Format
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.kinds import KINDS, NONE_FOUND, kind_of_shard
from pipeline.inputs.read import Inputs
from tests.support.tars import make_tar


def test_the_formats_of_the_config_are_the_kinds():
    formats = ("auto", *KINDS, "manifest")
    assert formats == get_args(Format)


@pytest.mark.parametrize(("path", "name"), [
    ("a.tar", "tar"), ("a/b.TAR.GZ", "tar"), ("a.tgz", "tar"), ("a.parquet", "parquet"), ("x/A.PARQUET", "parquet"),
    ("https://host/a.parquet", "parquet"), ("https://host/a", "tar")])
def test_the_kind_of_a_file(path, name):
    assert kind_of_shard(path) is KINDS[name]


def test_a_group_is_of_images_whatever_its_name():
    assert kind_of_shard("x/images-first", {"path": "images-first", "members": []}) is KINDS["images"]


def test_an_input_without_shards_lists_what_it_could_hold():
    assert NONE_FOUND == (
        "holds no tar shards (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst), no .parquet files and no images "
        "(.jpg, .jpeg, .png, .webp, .bmp, .gif, .tif, .tiff)")


@pytest.mark.parametrize(("truth", "message"), [
    ("column:label", "its truth is not in a column: --truth column:label is for Parquet files"),
    ("member:cls", None)])
def test_a_truth_at_a_place_that_the_kind_does_not_have(tmp_path, truth, message):
    (tmp_path / "a.tar").write_bytes(make_tar(("a.jpg", b"x"), ("a.cls", b"7")))
    inputs = Inputs(None, None, 100, None, truth)
    if message is None:
        assert [one.truth for one in inputs.read_truths(str(tmp_path / "a.tar"))] == ["7"]
        return
    for read in (inputs.read_truths, lambda uri: inputs.open(uri).__enter__()):
        with pytest.raises(ShardUnreadable) as raised:
            read(str(tmp_path / "a.tar"))
        assert str(raised.value) == message
