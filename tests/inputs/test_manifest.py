"""Manifests: what they may list, in which order, and what is said of those that cannot be used."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UserError
from pipeline.formats.loose import read_files
from pipeline.inputs.find import find_shards
from pipeline.store import storage
from tests.support.jobs import SEED, digest, job


def test_a_csv_in_its_order_with_relative_absolute_and_missing_ones(tmp_path):
    (tmp_path / "b,c").mkdir()
    (tmp_path / "b,c/1.jpg").write_bytes(b"one")
    (tmp_path / "2.jpg").write_bytes(b"two")
    (tmp_path / "list.csv").write_text(f'uri,comment\n"b,c/1.jpg",x\n{tmp_path}/2.jpg,y\nabsent.jpg,z\n')
    row, = find_shards(str(tmp_path / "list.csv")).shards.to_pylist()
    samples = list(read_files(str(tmp_path), row["members"], 100))
    assert [(sample.key, sample.encoded, sample.error) for sample in samples] == [
        (f"{tmp_path}/b,c/1.jpg", b"one", None), (f"{tmp_path}/2.jpg", b"two", None),
        (f"{tmp_path}/absent.jpg", b"", "not_a_file")]
    before = row["etag"]
    (tmp_path / "absent.jpg").write_bytes(b"three")
    assert find_shards(str(tmp_path / "list.csv")).shards["etag"].to_pylist() != [before]


def test_given_sizes_and_versions_are_believed(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"one")
    etag = storage.stat(str(tmp_path / "1.jpg")).etag
    for name, table in (("a.parquet", {"uri": ["1.jpg", "gone.jpg"], "size": [3, 4], "etag": [etag, "e"]}),):
        pq.write_table(pa.table(table), tmp_path / name)
        row, = find_shards(str(tmp_path / name), "manifest").shards.to_pylist()
        assert [(member["size"], member["etag"]) for member in row["members"]] == [(3, etag), (4, "e")]
        assert [sample.error for sample in read_files(str(tmp_path), row["members"], 100)] == [None, "not_a_file"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url\na.jpg\n", "a manifest has a column uri"),
        ("uri\n", "this one has uri and no line"),
        ("", "has nothing"),
        ("uri,size,etag\na.jpg,many,e\n", "line 2, column size: 'many' is no number of bytes"),
        ("uri,size,etag\na.jpg,1,e\n\nb.jpg,,\n", "line 4, column size: '' is no number"),
        ("uri,size,etag\na.jpg,1,\n", "line 2, column etag: it is empty"),
        ("uri,uri\na,b\n", "line 1: there are several columns uri"),
        ("uri\na.jpg\nfoo://x/y.jpg\n", "line 3, column uri: foo://x/y.jpg: Protocol not known"),
        ("uri,n\na.jpg,1,2\n", "line 2: 3 values for 2 columns"),
        ('uri\n"a.jpg\n', "line 2: not CSV"),
        ("uri\ns3://key:secret@b/a.jpg\n", "line 2, column uri: it holds credentials"),
        (
            "uri\na.jpg\ns3:/bucket/a.jpg\n",
            "line 3, column uri: it is 's3:/bucket/a.jpg', which is no URI; write s3://bucket/a.jpg",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, says):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        find_shards(str(tmp_path / "list.csv"))


@pytest.mark.parametrize(("data", "says"), [("uri\na.jpg\n".encode("utf-16"), "line 1: .* it is UTF-16"),
                                            (b"\x1f\x8b\x08\0", "compressed"),
                                            ("uri\nä.jpg\n".encode("latin-1"), "line 2: .* byte 4 is not UTF-8")])
def test_what_is_no_text_is_said(tmp_path, data, says):
    (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(UserError, match=says):
        find_shards(str(tmp_path / "list.csv"))


def errors(manifest: Path) -> list[str | None]:
    return [sample.error for row in find_shards(str(manifest)).shards.to_pylist()
            for sample in read_files(str(manifest.parent), row["members"], 100)]


def test_one_odd_line_stops_no_other(tmp_path):
    """An empty cell, a folder, a name too long for a file, a version in quotes, a stale version, a lost file."""
    (tmp_path / "a.jpg").write_bytes(b"one")
    (tmp_path / "folder").mkdir()
    lines = ("uri,note", "a.jpg,x", ",y", "folder,z", f"{'n' * 300}.jpg,", f"file://{tmp_path}/a.jpg,", "a.jpg/b.jpg,")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    assert errors(tmp_path / "list.csv") == [
        None, "not_a_file", "not_a_file", "not_a_file", None, "not_a_file"]
    etag = storage.stat(str(tmp_path / "a.jpg")).etag
    (tmp_path / "known.csv").write_text(
        f'uri,size,etag\na.jpg,3,"""{etag}"""\na.jpg,3,stale\ngone.jpg,3,e\n,,\nfolder,3,e\na.jpg,3.0,{etag}\n'
    )
    assert errors(tmp_path / "known.csv") == [
        None, "replaced", "not_a_file", "not_a_file", "not_a_file", None]


def test_files_that_may_not_be_read_have_rows_unless_none_may(tmp_path, monkeypatch):
    stat = storage.stat

    def refuse(uri):
        if "closed" in uri:
            raise PermissionError(13, "Permission denied", uri)
        return stat(uri)

    monkeypatch.setattr(storage, "stat", refuse)
    (tmp_path / "a.jpg").write_bytes(b"one")
    (tmp_path / "list.csv").write_text("uri\na.jpg\nclosed.jpg\n")
    assert errors(tmp_path / "list.csv") == [None, "unreadable"]
    (tmp_path / "list.csv").write_text("uri\nclosed.jpg\n")
    with pytest.raises(UserError, match="none of its 1 images may be read"):
        find_shards(str(tmp_path / "list.csv"))


@pytest.mark.slow
def test_the_job_labels_a_manifest(undisturbed, few_photographs, tmp_path):
    for name, data in few_photographs:
        storage.put_whole(str(tmp_path / "store" / name), data)
    (tmp_path / "list.csv").write_text("uri\n" + "".join(f"store/{name}\n" for name, _ in few_photographs)
                                       + "store/absent.jpg\n")
    options = ("--input", tmp_path / "list.csv", "--output", tmp_path / "out")
    done = job("label", *options, *SEED, "--batch-size", 4, "--max-rejected", 1)
    assert done.returncode == 0 and "1 rejected (not_a_file 1)" in done.stdout, done.stdout + done.stderr
    digest(tmp_path / "list.csv", tmp_path / "out")
    assert "nothing to do" in job("label", *options, *SEED).stdout
    rows, expected = ([pq.read_table(path, partitioning=None).to_pylist()
                       for path in sorted(Path(folder).rglob("labels/**/*.parquet"))]
                      for folder in (tmp_path / "out", undisturbed))
    assert [row["label_id"] for row in rows[0]] == [*(row["label_id"] for row in expected[0]), None]
