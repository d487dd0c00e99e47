"""Manifests: what they may list, in which order, and what is said of those that cannot be used."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.config import UserError
from pipeline.image_files import read_files
from pipeline.inputs import find
from tests.conftest import SEED, digest, job


def test_a_csv_in_its_order_with_relative_absolute_and_missing_ones(tmp_path):
    (tmp_path / "b,c").mkdir()
    (tmp_path / "b,c/1.jpg").write_bytes(b"one")
    (tmp_path / "2.jpg").write_bytes(b"two")
    (tmp_path / "list.csv").write_text(f'uri,comment\n"b,c/1.jpg",x\n{tmp_path}/2.jpg,y\nabsent.jpg,z\n')
    row, = find(str(tmp_path / "list.csv")).to_pylist()
    samples = list(read_files(str(tmp_path), row["members"], 100))
    assert [(sample.key, sample.encoded, sample.error) for sample in samples] == [
        (f"{tmp_path}/b,c/1.jpg", b"one", None), (f"{tmp_path}/2.jpg", b"two", None),
        (f"{tmp_path}/absent.jpg", b"", "not_a_file")]
    before = row["etag"]
    (tmp_path / "absent.jpg").write_bytes(b"three")
    assert find(str(tmp_path / "list.csv"))["etag"].to_pylist() != [before]


def test_given_sizes_and_versions_are_believed(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"one")
    etag = storage.stat(str(tmp_path / "1.jpg")).etag
    for name, table in (("a.parquet", {"uri": ["1.jpg", "gone.jpg"], "size": [3, 4], "etag": [etag, "e"]}),):
        pq.write_table(pa.table(table), tmp_path / name)
        row, = find(str(tmp_path / name), "manifest").to_pylist()
        assert [(member["size"], member["etag"]) for member in row["members"]] == [(3, etag), (4, "e")]
        with pytest.raises(FileNotFoundError):
            list(read_files(str(tmp_path), row["members"], 100))


@pytest.mark.parametrize(("text", "says"), [
    ("url\na.jpg\n", "a manifest has a column uri"), ("uri\n", "a manifest has a column uri"), ("", "not a manifest"),
    ("uri,size,etag\na.jpg,many,e\n", "not a manifest"), ("uri\ns3://key:secret@b/a.jpg\n", "--input holds credentials")])
def test_what_is_wrong_is_said(tmp_path, text, says):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        find(str(tmp_path / "list.csv"))


@pytest.mark.slow
def test_the_job_labels_a_manifest(undisturbed, photographs, tmp_path):
    for name, data in photographs:
        storage.put_whole(str(tmp_path / "store" / name), data)
    (tmp_path / "list.csv").write_text("uri\n" + "".join(f"store/{name}\n" for name, _ in photographs) + "store/absent.jpg\n")
    options = ("--input", tmp_path / "list.csv", "--output", tmp_path / "out")
    done = job("label", *options, *SEED, "--batch-size", 4, "--max-rejected", 1)
    assert done.returncode == 0 and "1 rejected (not_a_file 1)" in done.stdout, done.stdout + done.stderr
    digest(tmp_path / "list.csv", tmp_path / "out")
    assert "nothing to do" in job("label", *options, *SEED).stdout
    rows, expected = ([pq.read_table(path, partitioning=None).to_pylist() for path in sorted(Path(folder).rglob("labels/**/*.parquet"))]
                      for folder in (tmp_path / "out", undisturbed))
    assert [row["label_id"] for row in rows[0]] == [*(row["label_id"] for row in expected[0]), None]
