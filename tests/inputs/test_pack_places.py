"""Where shards are packed to: prefixes, an output in or above the input, links, stores."""

import fsspec
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.inputs.find import find_images, find_shards
from pipeline.inputs.pack import pack
from pipeline.inputs.read import Inputs
from pipeline.truth import sources
from tests.support.packed import fill, keys

INPUTS = Inputs(None, None, Config.max_image_bytes, None)


@pytest.mark.parametrize("prefix", ["", " ", "a/b", "/abs", "..", "../x", ".hidden", "_temporary", "a\\b", "a\0b",
                                    "a\nb", "a\udcff", "x" * 201,
                                    "ü" * 101])
def test_a_prefix_that_leads_out_of_the_output_or_hides_the_shards_is_refused(tmp_path, prefix):
    root = fill(tmp_path / "in", "1.jpg")
    with pytest.raises(UserError, match=r"^--prefix is ") as caught:
        pack(str(root), str(tmp_path / "out/put"), 1, prefix)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "1.jpg"]


def test_the_longest_prefix_is_written_and_found(tmp_path):
    root = fill(tmp_path / "in", "1.jpg")
    for prefix in ("x" * 200, "ü" * 100, "a..b", "-", "a=b", "label=1"):
        pack(str(root), str(tmp_path / "out"), 1, prefix)
        assert pack(str(root), str(tmp_path / "out"), 1, prefix).num_kept == 1
    assert len(find_shards(str(tmp_path / "out")).shards) == 6


def test_shards_of_a_longer_prefix_are_another_folders(tmp_path):
    pack(str(fill(tmp_path / "in", "1.jpg")), str(tmp_path / "out"), 1, "images-of-birds")
    assert pack(str(tmp_path / "in"), str(tmp_path / "out"), 1, "images").num_shards == 1


@pytest.mark.parametrize("spelled", ["{0}", "{0}/", "{0}/.", "{0}/sub/..", "file://{0}", "FILE:{0}", "{1}/link",
                                     "//{0}"])
def test_an_output_that_is_the_input_is_refused(tmp_path, spelled):
    root = fill(tmp_path / "in", "1.jpg", "sub/2.jpg")
    (tmp_path / "link").symlink_to(root)
    for here, there in ((str(root), spelled.format(root, tmp_path)), (spelled.format(root, tmp_path), str(root))):
        with pytest.raises(UserError, match="--input and --output name the same place"):
            pack(here, there, 1, "p")
    assert sorted(path.name for path in root.iterdir()) == ["1.jpg", "sub"]


@pytest.mark.parametrize("output", ["S3://bucket/in/", "s3a://bucket/in"])
def test_an_output_that_is_the_input_is_refused_by_whatever_scheme(output):
    with pytest.raises(UserError, match="--input and --output name the same place"):
        pack("s3://bucket/in", output, 1, "p")
    with pytest.raises(UserError, match="--input and --output name the same place"):
        Config(input="s3://bucket/in", output=output)
    with pytest.raises(UserError, match="is in the folder labels of --output"):
        Config(input="s3a://bucket/in/labels/x", output="s3://bucket/in")


def test_an_output_below_the_input_is_no_input(tmp_path):
    root = fill(tmp_path, "1.jpg", "1.cls", "out/kept.jpg", "out/kept.cls")
    for kept in (0, 1):
        packed = pack(str(root), str(root / "out"), 1, "p", ("cls",))
        assert (packed.num_kept, packed.sentences()) == (kept, [])
    assert keys(root / "out") == {"1.jpg": "1"}


def test_an_input_below_the_output_is_read(tmp_path):
    fill(tmp_path, "out/in/1.jpg")
    for kept in (0, 1):
        assert pack(str(tmp_path / "out/in"), str(tmp_path / "out"), 1, "p").num_kept == kept
    assert keys(tmp_path / "out") == {"out/in/1.jpg": "1"}


def test_an_input_below_the_output_is_listed_from_a_store():
    fs = fsspec.filesystem("memory")
    for name in ("/below/in/1.jpg", "/below/in/out/2.jpg", "/below/in/day/3.tar"):
        fs.pipe_file(name, b"x")
    try:
        assert find_images("memory://below/in", "memory://below")[0]["path"].to_pylist() == ["1.jpg", "out/2.jpg"]
        assert find_images("memory://below/in", "memory://below/in/out")[0]["path"].to_pylist() == ["1.jpg"]
        assert find_shards("memory://below/in", output="memory://below").shards["path"].to_pylist() == ["day/3.tar"]
        assert find_shards("memory://below/in", "tar", "day",
                           "memory://below").shards["path"].to_pylist() == ["day/3.tar"]
        assert len(find_shards("memory://below/in", "tar", "day", "memory://below/in/day").shards) == 0
    finally:
        fs.rm("/below", recursive=True)


def test_nothing_is_written_where_a_link_leads(tmp_path):
    root = fill(tmp_path / "in", "1.jpg")
    fill(tmp_path, "elsewhere/precious.tar", "out/kept")
    (tmp_path / "out/p-00000.tar").symlink_to(tmp_path / "elsewhere/precious.tar")
    with pytest.raises(
        UserError, match=r"p-00000.tar is a link to .*/elsewhere/precious.tar, and nothing is written there"
    ):
        pack(str(root), str(tmp_path / "out"), 1, "p")
    assert (tmp_path / "elsewhere/precious.tar").read_bytes() == b"elsewhere/precious.tar"
    pack(str(root), str(tmp_path / "elsewhere"), 1, "p")
    (tmp_path / "out/p-00000.tar").unlink()
    (tmp_path / "out/p-00000.tar").symlink_to(
        tmp_path / "elsewhere/p-00000.tar"
    )  # as git-annex has them: this very shard
    assert pack(str(root), str(tmp_path / "out"), 1, "p").num_kept == 1


def test_an_output_that_cannot_be_written_is_told(tmp_path):
    root = fill(tmp_path, "in/1.jpg", "file") / "in"
    with pytest.raises(UserError, match=r"^--output .*/file cannot be used"):
        pack(str(root), str(tmp_path / "file"), 1, "p")
    (tmp_path / "out/p-00000.tar").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^--output .*/out cannot be used"):
        pack(str(root), str(tmp_path / "out"), 1, "p")


def test_a_web_server_is_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"^--input https://host/photos: a web server does not list its files"):
        pack("https://host/photos", "out", 1, "p")


@pytest.mark.s3
@pytest.mark.parametrize(("source", "output"), [("s3://photos/packing/in", "s3a://photos/packing/in/out"),
                                                ("s3a://photos/packing/in", "s3://photos/packing")])
def test_a_bucket_is_packed_into_itself(s3, monkeypatch, source, output):
    environ, fs = s3
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for name in ("a/1.jpg", "a/1.cls", "a/1.png"):
        fs.pipe_file(f"photos/packing/in/{name}", name.encode())
    try:
        for kept in (0, 1):
            packed = pack(source, output, 5, "p", ("cls",))
            assert (packed.num_images, packed.num_texts, packed.num_kept, packed.sentences()) == (2, 2, kept, [])
        found = sources.read_truth(sources.Examples(output + "/p-00000.tar", "member:cls", INPUTS)).given
        assert {row["name"]: row["value"] for row in found.to_pylist()} == {"a/1": "a/1.cls", "a/1_2": "a/1.cls"}
    finally:
        fs.rm("photos/packing", recursive=True)
