"""Listings: every file, with the size and version that opening it gives; local and S3."""

import os

import pytest

from pipeline.store import storage
from pipeline.store.listing import list_files, list_input
from pipeline.store.local_files import LOOP, MISSING, REFUSED
from tests.support.listing import files_below

NAMES = ["a.tar", "dt=2026-11-23/b c.tar", "x/ü+%41&<'\".tar", "x/y/z.tar"]


def test_local_files_as_they_are_opened(tmp_path):
    for name in NAMES:
        storage.put_whole(str(tmp_path / name), name.encode())
    files = {file.path: file for file in files_below(str(tmp_path))}
    assert sorted(files) == sorted(NAMES)
    for name in NAMES:
        with storage.open_read(str(tmp_path / name)) as (_, version):
            assert (version.size, version.etag) == (files[name].size, files[name].etag)


def test_one_file_is_its_own_listing(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"1234")
    assert [(file.path, file.size) for file in files_below(str(tmp_path / "a.tar"))] == [("a.tar", 4)]


def test_links_are_followed_and_what_cannot_be_read_is_marked(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.tar").write_bytes(b"1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "real")
    assert list_files(str(tmp_path / "in"))["path"].to_pylist() == ["folder/a.tar"]
    (tmp_path / "in" / "b.tar").symlink_to(tmp_path / "absent.tar")
    (tmp_path / "real" / "up").symlink_to("..")
    (tmp_path / "in" / "circle.jpg").symlink_to("circle.jpg")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    assert list_files(str(tmp_path / "in"))["path"].to_pylist() == ["folder/a.tar"]
    marks = {row["path"]: row["etag"] for row in list_input(str(tmp_path / "in")).to_pylist() if len(row["etag"]) < 10}
    assert marks == {"b.tar": MISSING, "circle.jpg": MISSING, "pipe.jpg": MISSING, "folder/up/in/": LOOP,
                     "folder/up/real/": LOOP}


def test_a_folder_that_may_not_be_read_stops_an_output_but_no_input(tmp_path, monkeypatch):
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.tar").write_bytes(b"1")
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    refused = {row["path"]: row["etag"] == REFUSED for row in list_input(str(tmp_path)).to_pylist()}
    assert refused == {"open/a.tar": False, "closed/": True}
    with pytest.raises(PermissionError):
        list_files(str(tmp_path))
    with pytest.raises(PermissionError):
        list_input(str(tmp_path / "closed"))


def test_what_is_below_the_output_is_passed_over_by_whatever_path(tmp_path):
    for name in ("in/a.jpg", "in/out/b.jpg", "in/outer/c.jpg"):
        storage.put_whole(str(tmp_path / name), b"1")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "out")
    files = list_input(str(tmp_path / "in"), without=str(tmp_path / "in/out"))
    assert sorted(files["path"].to_pylist()) == ["a.jpg", "outer/c.jpg"]
    assert len(list_input(str(tmp_path / "in"), without=str(tmp_path / "absent"))) == 4


def test_1970_is_a_time(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"1")
    os.utime(tmp_path / "a.tar", (0, 0))
    assert list_files(str(tmp_path)).to_pylist() == [{"path": "a.tar", "size": 1, "etag": "0.0-1"}]
    assert storage.stat(str(tmp_path / "a.tar")).etag == "0.0-1"


def test_a_name_that_is_not_utf8_is_listed_and_opened(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.tar", "wb") as file:
        file.write(b"odd")
    assert list_files(str(tmp_path))["path"].to_pylist() == ["\\xff.tar"]
    assert storage.read_bytes(storage.join(str(tmp_path), "\\xff.tar")) == b"odd"
    storage.put_whole(storage.join(str(tmp_path), "new\\xff.tar"), b"new")
    assert storage.read_bytes(storage.join(str(tmp_path), "new\\xff.tar")) == b"new"
    (tmp_path / "\\xff.tar").write_bytes(b"another")  # its very name
    assert sorted((row["path"], row["etag"] == MISSING) for row in list_input(str(tmp_path)).to_pylist()) == [
        ("\\xff.tar", False), ("\\xff.tar", True), ("new\\xff.tar", False)]


def test_nothing_there(tmp_path):
    assert len(list_files(str(tmp_path))) == 0
    with pytest.raises(FileNotFoundError):
        list_files(str(tmp_path / "absent"))


@pytest.mark.s3
def test_s3_pages_as_s3fs_lists_and_opens_them(s3, monkeypatch):
    environ, fs = s3
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    names = [*NAMES, *(f"many/{number:04}.tar" for number in range(1100))]
    for name in names:
        fs.pipe_file(f"photos/listing/{name}", name.encode())
    fs.pipe_file("photos/listing-of-another/a.tar", b"")
    files = {file.path: file for file in files_below("s3://photos/listing")}
    assert sorted(files) == sorted(names)
    theirs = fs.find("photos/listing", detail=True)
    assert {f"photos/listing/{path}": (file.size, file.etag) for path, file in files.items()} == \
        {path: (info["size"], info["ETag"].strip('"')) for path, info in theirs.items()}
    assert [file.path for file in files_below("s3://photos/listing/a.tar")] == ["a.tar"]
    with pytest.raises(FileNotFoundError):
        list_files("s3://photos/absent")
    with pytest.raises(FileNotFoundError):
        list_files("s3://absent-bucket/x")
    fs.rm("photos/listing", recursive=True)
