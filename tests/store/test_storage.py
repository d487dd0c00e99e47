"""The store, on the local disk."""

import os

import pytest

from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.explain import check_atomic_put, explain_error
from tests.support.listing import files_below


def test_put_whole_list_read_remove(tmp_path):
    root = str(tmp_path)
    storage.put_whole(storage.join(root, "a", "b.bin"), b"one")
    first = files_below(root)
    assert [(file.path, file.size) for file in first] == [("a/b.bin", 3)]
    storage.put_whole(storage.join(root, "a/b.bin"), b"two!")
    second = files_below(root)
    assert second[0].etag != first[0].etag
    with storage.open_read(storage.join(root, "a/b.bin")) as (file, version):
        assert file.read() == b"two!" and version.etag == second[0].etag
    assert os.listdir(tmp_path / "a") == ["b.bin"]
    storage.remove(storage.join(root, "a"))
    storage.remove(storage.join(root, "a"))
    assert files_below(root) == []


def test_a_failed_put_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.put_whole(str(tmp_path / "x"), b"data")
    assert os.listdir(tmp_path) == []


def test_errors_name_the_flag(tmp_path):
    missing = str(tmp_path / "absent")
    with pytest.raises(FileNotFoundError) as caught:
        files_below(missing)
    assert str(explain_error("--input", missing, caught.value)) == f"--input {missing} does not exist."
    with pytest.raises(UserError, match="--output sftp://"):
        check_atomic_put("--output", "sftp://host/x")
