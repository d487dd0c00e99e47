"""Patterns and lists of shards: which shards they name, where each is, and how a wrong one is told."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.inputs.find import find_shards
from pipeline.inputs.patterns import split_pattern
from pipeline.inputs.read import Inputs, shard_uri
from pipeline.store.local_files import MISSING
from tests.formats.test_left_out import folder_of
from tests.stages.test_read import png
from tests.store.test_stores import Ranges, web  # noqa: F401  # a fixture
from tests.support.tars import make_tar

READ = Inputs(None, None, 2**26, None)


def names(uri: str, *more: object) -> list[str]:
    return find_shards(uri, *more).shards["path"].to_pylist()


@pytest.fixture
def root(tmp_path):
    return folder_of(tmp_path, "00000.tar", "00001.tar", "00002.tar", "x/a.tar", "x/y/b.tar", "x/c.parquet", "n.txt",
                     "dt=2026-11-23/d.tar", "dt=2026-11-24/e.tar", "photos [2026]/f.tar", "photos 2/g.tar")


@pytest.mark.parametrize(("pattern", "expected"), [
    ("{00000..00001}.tar", ["00000.tar", "00001.tar"]),
    ("{00002,x/a}.tar", ["00002.tar", "x/a.tar"]),
    ("*.tar", ["00000.tar", "00001.tar", "00002.tar"]),
    ("0000[01].tar", ["00000.tar", "00001.tar"]),
    ("x/*.tar", ["a.tar"]),
    ("x/**/*.tar", ["a.tar", "y/b.tar"]),
    ("dt=2026-11-{23,24}/?.tar", ["dt=2026-11-23/d.tar", "dt=2026-11-24/e.tar"]),
    ("dt=*/**", ["dt=2026-11-23/d.tar", "dt=2026-11-24/e.tar"]),
    ("photos [2026]", ["f.tar"]),  # a folder of this very name
    ("photos [2026]/*.tar", ["f.tar"]),
    ("photos [2]/*.tar", ["photos 2/g.tar"]),
])
def test_what_a_pattern_names(root, pattern, expected):
    found = find_shards(f"{root}/{pattern}")
    assert found.shards["path"].to_pylist() == expected
    for row in found.shards.to_pylist():
        assert os.path.exists(shard_uri(found.root, row))


def test_a_shard_that_braces_name_and_nobody_has_stays_and_fails(root):
    found = find_shards(f"{root}/{{00002..00004}}.tar").shards.to_pylist()
    assert [(row["path"], row["etag"] == MISSING) for row in found] == [
        ("00002.tar", False), ("00003.tar", True), ("00004.tar", True)]


def test_what_is_no_pattern(root):
    assert split_pattern(f"{root}/x") is None and split_pattern("https://host/a.tar?b=[1]") is None
    assert split_pattern(f"{root}/photos [2026]") is None
    with pytest.raises(UserError, match="its braces are not balanced"):
        names(f"{root}/{{00000..1.tar")
    with pytest.raises(UserError, match="--partition x: it is for folders"):
        names(f"{root}/*.tar", "auto", "x")
    with pytest.raises(UserError, match=r"nothing/\*.tar: the folder .*/nothing of this pattern does not exist"):
        names(f"{root}/nothing/*.tar")


def test_images_by_a_pattern(tmp_path):
    root = folder_of(tmp_path, "a/1.jpg", "a/2.png", "b/3.jpg")
    found = find_shards(f"{root}/a/*.jpg")
    row, = found.shards.to_pylist()
    assert [member["path"] for member in row["members"]] == ["1.jpg"]
    with READ.open(shard_uri(found.root, row), row) as (samples, _):
        assert [(sample.key, sample.error) for sample in samples] == [("1.jpg", None)]


@pytest.mark.parametrize(("name", "text"), [
    ("list.txt", "# two shards\n{root}/x/a.tar\n\n00000.tar\n"),
    ("list.csv", "uri,note\n{root}/x/a.tar,one\n00000.tar,two\n"),
    ("list.csv", "uri,size,etag\n{root}/x/a.tar,10240,e1\n00000.tar,7,e2\n"),
])
def test_a_list_of_shards(root, tmp_path, name, text):
    (tmp_path / "in" / name).write_text(text.format(root=root))
    found = find_shards(f"{root}/{name}")
    rows = found.shards.to_pylist()
    assert [row["path"] for row in rows] == ["00000.tar", "x/a.tar"]
    assert [shard_uri(found.root, row) for row in rows] == [f"{root}/00000.tar", f"{root}/x/a.tar"]
    if "size" in text:
        assert [(row["size"], row["etag"]) for row in rows] == [(7, "e2"), (10240, "e1")]


def test_shards_outside_of_the_folder_of_their_list(root, tmp_path):
    (tmp_path / "list.txt").write_text(f"{root}/x/a.tar\ns3://bucket/k/a.tar\nhttps://host/k/a.tar?x=1\n")
    (tmp_path / "sized.csv").write_text("uri,size,etag\n" + "".join(
        f"{uri},1,e\n" for uri in (tmp_path / "list.txt").read_text().split()))
    found = find_shards(str(tmp_path / "sized.csv"))
    assert [(row["path"], row["uri"]) for row in found.shards.to_pylist()] == [
        ("https/host/k/a.tar", "https://host/k/a.tar?x=1"), ("in/x/a.tar", f"{root}/x/a.tar"),
        ("s3/bucket/k/a.tar", "s3://bucket/k/a.tar")]


@pytest.mark.parametrize(("text", "message"), [
    ("a.tar\nb.jpg\n", "line 1 names a shard, and line 2 does not"),
    ("a.tar\n\n./a.tar\n", "lines 1 and 3 name the same shard"),
    ("s3://b/../a.tar\n", r"line 1, column uri: .* has an empty part, \. or \.\. in it"),
    ("a.tar\nHello.\n", "line 2: 'Hello.' is no URI of a shard or an image"),
    ("# nothing\n", "a manifest has a column uri, and a line for each image or shard"),
    ("https://user:secret@host/a.tar\n", "line 1, column uri: it holds credentials"),
])
def test_a_wrong_list_is_told_by_its_line(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        names(str(tmp_path / "list.txt"))


def test_a_shard_of_a_list_that_is_gone_stays_and_fails(root, tmp_path):
    (tmp_path / "list.txt").write_text(f"{root}/00000.tar\n{root}/gone.tar\n")
    rows = find_shards(str(tmp_path / "list.txt")).shards.to_pylist()
    assert [row["etag"] == MISSING for row in rows] == [False, True]


@pytest.mark.parametrize("web", [Ranges], indirect=True)
def test_shards_of_a_web_server_by_braces_and_by_list(web):  # noqa: F811
    folder, uri, _ = web
    for number in range(3):
        (folder / f"{number}.tar").write_bytes(make_tar((f"{number}.png", png(number))))
    (folder / "list.txt").write_text("0.tar\n2.tar\n")
    for place, expected in ((f"{uri}/{{0..3}}.tar", [0, 1, 2]), (f"{uri}/list.txt", [0, 2])):
        found = find_shards(place)
        rows = [row for row in found.shards.to_pylist() if row["etag"] != MISSING]
        assert [row["path"] for row in rows] == [f"{number}.tar" for number in expected]
        for row, number in zip(rows, expected, strict=True):
            with READ.open(shard_uri(found.root, row)) as (samples, version):
                assert [sample.encoded for sample in samples] == [png(number)]
            assert version.etag == row["etag"]
    assert len(find_shards(f"{uri}/{{0..3}}.tar").shards) == 4


def test_parquet_shards_by_a_pattern(tmp_path):
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": [png(1)]}), tmp_path / f"{name}.parquet")
    assert names(f"{tmp_path}/{{a,b}}.parquet") == ["a.parquet", "b.parquet"]
