"""The store on a bad day: a real S3 server behind a proxy that breaks requests."""

import os

import pytest

from pipeline.store import retry, storage
from pipeline.store.listing import list_files
from pipeline.store.stream import BLOCK_BYTES, open_stream
from tests.support.faults import KINDS
from tests.support.s3 import forget_s3

pytestmark = pytest.mark.s3


def read(uri: str) -> bytes:
    with open_stream(uri) as (stream, _):
        return stream.read()


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_once_in_each_call(kind, proxy, s3):
    uri, data = "s3://photos/faults/a", os.urandom(3 * BLOCK_BYTES // 2)
    for method, path, call in (
            ("PUT", "/a", lambda: storage.put_whole(uri, data)),
            ("HEAD", "/a", lambda: storage.stat(uri).size == len(data)),
            ("GET", "/a", lambda: storage.read_bytes(uri) == data),
            ("GET", "/a", lambda: read(uri) == data),
            ("GET", "list-type", lambda: list_files("s3://photos/faults")["path"].to_pylist() == ["a"]),
            ("PUT", "/lease", lambda: storage.put_new("s3://photos/faults/lease", b"mine")),
            ("DELETE", "/a", lambda: storage.remove(uri))):
        proxy.once(kind, method, path)
        assert call() in (True, None)
        assert not proxy.chosen, f"no request was a {method} of {path}"
    assert proxy.counts == {kind: 7}
    assert not s3[1].exists("photos/faults/a") and s3[1].cat_file("photos/faults/lease") == b"mine"
    assert not storage.put_new("s3://photos/faults/lease", b"theirs")


def test_many_faults_and_nothing_wrong(proxy):
    proxy.rate = 0.25
    contents = {f"s3://photos/faults/{number}": os.urandom(1000 + number) for number in range(100)}
    for uri, data in contents.items():
        storage.put_whole(uri, data)
    assert {uri: read(uri) for uri in contents} == contents
    assert len(list_files("s3://photos/faults")) == 100 and proxy.counts.total() > 50


def test_a_stalled_reply_is_asked_for_again(proxy, monkeypatch):
    monkeypatch.setitem(storage.S3_OPTIONS["config_kwargs"], "read_timeout", 2)
    forget_s3()
    storage.put_whole("s3://photos/faults/a", b"data")
    proxy.once("stall", "GET", "/a")
    assert read("s3://photos/faults/a") == b"data"
    assert [method for method, path in proxy.requests if path.endswith("/a")] == ["PUT", "HEAD", "GET", "GET"]


def test_what_is_final_is_asked_once(proxy, monkeypatch):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("s3://photos/faults/absent")
    with pytest.raises(FileNotFoundError):
        storage.put_whole("s3://nobucket/a", b"data")
    assert sum(method == "PUT" for method, _ in proxy.requests) == 1
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    forget_s3()
    proxy.requests.clear()
    with pytest.raises(PermissionError):
        storage.put_whole("s3://photos/faults/a", b"data")
    assert len(proxy.requests) == 1


def test_it_gives_up(proxy):
    proxy.rate, proxy.kinds = 1.0, ("busy",)
    with pytest.raises(OSError, match="Service Unavailable"):
        storage.read_bytes("s3://photos/faults/a")
    assert len(proxy.requests) == retry.TRIES


def test_a_file_replaced_while_it_is_read_is_never_mixed(proxy, s3):
    uri = "s3://photos/faults/a"
    storage.put_whole(uri, bytes(5 * BLOCK_BYTES))

    def replace(method: str, path: str) -> None:
        if len(proxy.requests) > 4:
            proxy.before = lambda method, path: None
            s3[1].pipe_file("photos/faults/a", bytes([1]) * (5 * BLOCK_BYTES))

    proxy.before = replace
    proxy.requests.clear()
    with pytest.raises(retry.Replaced):
        read(uri)
    assert read(uri) == bytes([1]) * (5 * BLOCK_BYTES)


def test_a_large_file_is_one_put(proxy, s3):
    storage.put_whole("s3://photos/faults/large", bytes(120 * 2**20))
    assert [path for method, path in proxy.requests if method in ("PUT", "POST")] == ["/photos/faults/large"]
    assert not s3[1].call_s3("list_multipart_uploads", Bucket="photos").get("Uploads")


def test_names_are_names_not_patterns(proxy):
    names = ["a*", "ab", "a[b]", "a?b", "x::y", "p%41+ü #'"]
    for name in names:
        storage.put_whole(f"s3://photos/faults/{name}", name.encode())
    assert [read(f"s3://photos/faults/{name}") for name in names] == [name.encode() for name in names]
    for name in ("a*", "a[b]", "x::y"):
        storage.remove(f"s3://photos/faults/{name}")
    assert sorted(list_files("s3://photos/faults")["path"].to_pylist()) == sorted({*names} - {"a*", "a[b]", "x::y"})
    with pytest.raises(OSError, match="out of reach"):
        storage.put_whole("s3://photos/faults/a?versionId=1", b"")
