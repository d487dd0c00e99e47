"""The store on a bad day: a real S3 server behind a proxy that breaks requests."""

import os
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
import pytest

from pipeline.store import retry, storage
from pipeline.store.clouds import azure, google
from pipeline.store.listing import list_files, list_folders
from pipeline.store.s3 import connect
from pipeline.store.stream import BLOCK_BYTES, open_stream
from tests.support.clouds import forget_stores
from tests.support.faults import KINDS, FaultProxy
from tests.support.s3 import forget_s3

pytestmark = pytest.mark.s3

# Method and path of the request of each call.
REQUESTS = {
    "s3": {"put": ("PUT", "/a"), "stat": ("HEAD", "/a"), "read": ("GET", "/a"), "list": ("GET", "list-type"),
           "create": ("PUT", "/lease"), "remove": ("DELETE", "/a")},
    "gs": {"put": ("POST", "/upload/"), "stat": ("GET", "%2Fa$"), "read": ("GET", "%2Fa[?]alt=media"),
           "list": ("GET", "prefix="), "create": ("POST", "ifGenerationMatch=0"), "remove": ("DELETE", "%2Fa")},
    "abfs": {"put": ("PUT", "/a"), "stat": ("HEAD", "/a"), "read": ("GET", "/a$"), "list": ("GET", "comp=list"),
             "create": ("PUT", "/lease"), "remove": ("DELETE", "/a")},
}


class Store(NamedTuple):
    """A store behind a proxy. `root`: a folder in it. `put`: puts a file of the bucket past the proxy."""

    scheme: str
    root: str
    proxy: FaultProxy
    put: Callable[[str, bytes], None]


@pytest.fixture(params=REQUESTS)
def store(request, monkeypatch):
    """Each store in turn, which this process uses until the test ends."""
    scheme = request.param
    if scheme == "s3":
        proxy, (_, fs) = request.getfixturevalue("proxy"), request.getfixturevalue("s3")
        # A folder of its own: the server may list a folder whose last file was removed by an earlier test.
        root = f"s3://photos/faults/{request.node.name}"
        yield Store(scheme, root, proxy, lambda path, data: fs.pipe_file(f"photos/{path}", data))
        return
    server = request.getfixturevalue(scheme)
    proxy = FaultProxy(server.port)
    for name, value in server.environ(proxy.port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    forget_stores()
    yield Store(scheme, f"{scheme}://photos/{request.node.name}", proxy, server.put)
    proxy.close()
    forget_stores()


def read(uri: str) -> bytes:
    with open_stream(uri) as (stream, _):
        return stream.read()


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_once_in_each_call(kind, store):
    proxy, uri, lease, data = store.proxy, f"{store.root}/a", f"{store.root}/lease", os.urandom(3 * BLOCK_BYTES // 2)
    for name, call in (
            ("put", lambda: storage.put_whole(uri, data)),
            ("stat", lambda: storage.stat(uri).size == len(data)),
            ("read", lambda: storage.read_bytes(uri) == data),
            ("read", lambda: read(uri) == data),
            ("list", lambda: list_files(store.root)["path"].to_pylist() == ["a"]),
            ("create", lambda: storage.put_new(lease, b"mine")),
            ("remove", lambda: storage.remove(uri))):
        method, path = REQUESTS[store.scheme][name]
        proxy.once(kind, method, path)
        assert call() in (True, None)
        assert not proxy.chosen, f"no request was a {method} of {path}"
    assert proxy.counts == {kind: 7}
    assert not storage.exists(uri) and storage.read_bytes(lease) == b"mine"
    assert not storage.put_new(lease, b"theirs")


def test_many_faults_and_nothing_wrong(store):
    store.proxy.rate = 0.25
    contents = {f"{store.root}/{number}": os.urandom(1000 + number) for number in range(100)}
    for uri, data in contents.items():
        storage.put_whole(uri, data)
    assert {uri: read(uri) for uri in contents} == contents
    assert len(list_files(store.root)) == 100 and store.proxy.counts.total() > 50


def test_a_stalled_reply_is_asked_for_again(store, monkeypatch):
    monkeypatch.setitem(connect.S3_OPTIONS["config_kwargs"], "read_timeout", 2)
    monkeypatch.setattr(google, "TIMEOUT", aiohttp.ClientTimeout(total=None, sock_read=2))
    monkeypatch.setitem(azure.ONCE, "read_timeout", 2)
    forget_stores()
    uri = f"{store.root}/a"
    storage.put_whole(uri, b"data")
    store.proxy.requests.clear()
    store.proxy.once("stall", *REQUESTS[store.scheme]["read"])
    assert read(uri) == b"data"
    stat_again = [] if store.scheme == "s3" else [REQUESTS[store.scheme]["stat"][0]]
    assert [method for method, _ in store.proxy.requests] == [REQUESTS[store.scheme]["stat"][0], "GET", "GET",
                                                              *stat_again]


def test_what_is_final_is_asked_once(store):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{store.root}/absent")
    with pytest.raises(FileNotFoundError):
        storage.put_whole(f"{store.scheme}://nobucket/a", b"data")
    assert sum(method == REQUESTS[store.scheme]["put"][0] for method, _ in store.proxy.requests) == 1
    store.proxy.rate, store.proxy.kinds = 1.0, ("refused",)
    for call in (lambda: storage.put_whole(f"{store.root}/a", b"data"), lambda: read(f"{store.root}/a")):
        store.proxy.requests.clear()
        with pytest.raises(PermissionError):
            call()
        assert len({*store.proxy.requests}) == len(store.proxy.requests)


def test_wrong_credentials_are_final(proxy, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    forget_s3()
    with pytest.raises(PermissionError):
        storage.put_whole("s3://photos/faults/a", b"data")
    assert len(proxy.requests) == 1


def test_it_gives_up(store):
    store.proxy.rate, store.proxy.kinds = 1.0, ("busy",)
    with pytest.raises(OSError, match=r"Service Unavailable|reduce your request rate"):
        storage.read_bytes(f"{store.root}/a")
    assert len(store.proxy.requests) == retry.TRIES


def test_a_file_replaced_while_it_is_read_is_never_mixed(store):
    uri, proxy = f"{store.root}/a", store.proxy
    storage.put_whole(uri, bytes(5 * BLOCK_BYTES))

    def replace(method: str, path: str) -> None:
        if len(proxy.requests) > 4:
            proxy.before = lambda method, path: None
            store.put(uri.removeprefix(f"{store.scheme}://photos/"), bytes([1]) * (5 * BLOCK_BYTES))

    proxy.before = replace
    proxy.requests.clear()
    with pytest.raises(retry.Replaced):
        read(uri)
    assert read(uri) == bytes([1]) * (5 * BLOCK_BYTES)


def test_a_large_file_is_one_put(proxy, s3):
    storage.put_whole("s3://photos/faults/large", bytes(120 * 2**20))
    assert [path for method, path in proxy.requests if method in ("PUT", "POST")] == ["/photos/faults/large"]
    assert not s3[1].call_s3("list_multipart_uploads", Bucket="photos").get("Uploads")


def test_names_are_names_not_patterns(store):
    names = ["a*", "ab", "a[b]", "a?b", "x::y", "p%41+ü #'", "d/e f/=g"]
    for name in names:
        storage.put_whole(f"{store.root}/{name}", name.encode())
    assert [read(f"{store.root}/{name}") for name in names] == [name.encode() for name in names]
    assert list_folders(store.root) == ["d"]
    for name in ("a*", "a[b]", "x::y"):
        storage.remove(f"{store.root}/{name}")
    assert sorted(list_files(store.root)["path"].to_pylist()) == sorted({*names} - {"a*", "a[b]", "x::y"})


def test_a_name_that_s3fs_takes_for_a_version_is_refused(proxy):
    with pytest.raises(OSError, match="out of reach"):
        storage.put_whole("s3://photos/faults/a?versionId=1", b"")
