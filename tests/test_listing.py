"""Listings: every file, with the size and version that opening it gives; local and S3."""

import os

import pytest

from pipeline import storage
from pipeline.listing import each, list_files

NAMES = ["a.tar", "dt=2026-11-23/b c.tar", "x/ü+%41&<'\".tar", "x/y/z.tar"]


def test_local_files_as_they_are_opened(tmp_path):
    for name in NAMES:
        storage.put_whole(str(tmp_path / name), name.encode())
    files = {file.path: file for file in each(list_files(str(tmp_path)))}
    assert sorted(files) == sorted(NAMES)
    for name in NAMES:
        with storage.open_read(str(tmp_path / name)) as (_, version):
            assert (version.size, version.etag) == (files[name].size, files[name].etag)


def test_one_file_is_its_own_listing(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"1234")
    assert [(file.path, file.size) for file in each(list_files(str(tmp_path / "a.tar")))] == [("a.tar", 4)]


def test_links_are_followed_and_a_dead_one_is_said(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.tar").write_bytes(b"1")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "real")
    assert list_files(str(tmp_path / "in"))["path"].to_pylist() == ["folder/a.tar"]
    (tmp_path / "in" / "b.tar").symlink_to(tmp_path / "absent.tar")
    with pytest.raises(OSError, match=r"b\.tar points to nothing"):
        list_files(str(tmp_path / "in"))


def test_a_name_that_is_not_utf8_is_listed(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.tar", "wb"):
        pass
    assert list_files(str(tmp_path))["path"].to_pylist() == ["\\udcff.tar"]


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
    files = {file.path: file for file in each(list_files("s3://photos/listing"))}
    assert sorted(files) == sorted(names)
    theirs = fs.find("photos/listing", detail=True)
    assert {f"photos/listing/{path}": (file.size, file.etag) for path, file in files.items()} == \
        {path: (info["size"], info["ETag"].strip('"')) for path, info in theirs.items()}
    assert [file.path for file in each(list_files("s3://photos/listing/a.tar"))] == ["a.tar"]
    with pytest.raises(FileNotFoundError):
        list_files("s3://photos/absent")
    with pytest.raises(FileNotFoundError):
        list_files("s3://absent-bucket/x")
    fs.rm("photos/listing", recursive=True)
