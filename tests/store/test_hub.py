"""The Hugging Face hub as input: a server on 127.0.0.1 that speaks its API."""

import os

import pytest

from pipeline.errors import UserError
from pipeline.inputs.find import find_shards
from pipeline.store import retry, storage
from pipeline.store.clouds.hub import HubFiles
from pipeline.store.explain import check_atomic_put, explaining_errors
from pipeline.store.listing import list_files, list_folders
from pipeline.store.stream import BLOCK_BYTES, open_stream
from tests.support.faults import FaultProxy
from tests.support.hub import serve_hub
from tests.support.jobs import SEED, job

ROOTS = ("hf://datasets/lab/photos", "hf://datasets/lab/photos@main", "hf://buckets/lab/photos")
LARGE = os.urandom(BLOCK_BYTES + 1000)


@pytest.fixture
def hub(monkeypatch):
    with serve_hub() as hub:
        for name, value in hub.environ().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
        HubFiles.clear_instance_cache()
        yield hub
    HubFiles.clear_instance_cache()


@pytest.mark.parametrize("root", ROOTS)
def test_files_of_the_hub(hub, root):
    hub.files = {"README.md": b"#", "data/a.tar": LARGE, "data/deep/b ü#?.tar": b"bb", "database/c.tar": b""}
    assert sorted(list_files(root)["path"].to_pylist()) == sorted(hub.files)
    assert sorted(list_files(root + "/data")["path"].to_pylist()) == ["a.tar", "deep/b ü#?.tar"]
    assert list_files(root + "/data/a.tar").to_pylist()[0]["path"] == "a.tar"
    if "buckets" not in root:
        assert list_folders(root) == ["data", "database"]
    with open_stream(root + "/data/a.tar") as (file, version):
        assert file.read() == LARGE and version.size == len(LARGE)
    assert storage.read_bytes(root + "/data/deep/b ü#?.tar") == b"bb"
    listed = dict(zip(*list_files(root).select(["path", "etag"]).to_pydict().values(), strict=True))
    assert listed["data/a.tar"] == version.etag
    before = storage.stat(root + "/README.md")
    hub.files["README.md"] = b"!"
    assert storage.stat(root + "/README.md").etag != before.etag
    assert storage.stat(root + "/data/a.tar").etag == version.etag
    assert storage.exists(root + "/data") and not storage.exists(root + "/nothing")
    for absent in (root + "/nothing", root.replace("photos", "other")):
        with pytest.raises(FileNotFoundError):
            list_files(absent)
    with pytest.raises(IsADirectoryError):
        storage.stat(root + "/data")


def test_a_file_costs_two_requests(hub):
    hub.files = {f"{number}.tar": b"x" for number in range(50)}
    with open_stream("hf://datasets/lab/photos/7.tar") as (file, _):
        assert file.read() == b"x"
    assert [method for method, _ in hub.requests] == ["POST", "GET", "POST"]  # the last one: is it the same version?


@pytest.mark.parametrize("kind", ["busy", "throttled", "reset", "lost", "cut"])
def test_a_hub_on_a_bad_day(hub, monkeypatch, kind):
    hub.files = {f"{number}.tar": os.urandom(5000) for number in range(10)}
    proxy = FaultProxy(int(hub.url.rpartition(":")[2]))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{proxy.port}")
    HubFiles.clear_instance_cache()
    proxy.rate, proxy.kinds = 0.3, (kind,)
    assert len(list_files(ROOTS[0])) == 10
    for name, data in hub.files.items():
        with open_stream(f"{ROOTS[0]}/{name}") as (file, _):
            assert file.read() == data
    assert proxy.counts[kind] > 5
    proxy.close()


def test_a_file_replaced_while_it_is_read(hub):
    hub.files["a.tar"] = LARGE
    with pytest.raises(retry.Replaced), open_stream("hf://datasets/lab/photos/a.tar") as (file, _):
        hub.files["a.tar"] = LARGE[::-1]
        file.read()


def test_what_the_hub_is_not(hub):
    with pytest.raises(UserError, match="a file put to hf:// is not whole-or-absent"):
        check_atomic_put("--output", "hf://datasets/lab/photos")
    with pytest.raises(UserError, match=r"--input hf://photos cannot be used \(.*namespace/name"), \
            explaining_errors("--input", "hf://photos"):
        find_shards("hf://photos")


@pytest.mark.slow
def test_only_the_changed_shard_is_labelled_again(hub, shards, tmp_path):
    hub.files = {"README.md": b"#", ".gitattributes": b"x"} | {
        f"data/{name}": (shards / name).read_bytes() for name in ("a.tar", "b.tar", "c.tar.gz")}
    options = ("--input", "hf://datasets/lab/photos", "--output", tmp_path / "out", *SEED, "--batch-size", 4)
    done = job("label", *options, **hub.environ())
    assert done.returncode == 0 and "3 labelled, 0 skipped" in done.stdout, done.stdout + done.stderr
    hub.files["README.md"] = b"# more"
    hub.files["data/b.tar"] = (shards / "e.tar").read_bytes()
    done = job("label", *options, **hub.environ())
    assert done.returncode == 0 and "1 labelled, 2 skipped" in done.stdout, done.stdout + done.stderr
    proof = job("verify", "--input", "hf://datasets/lab/photos", "--output", tmp_path / "out", **hub.environ())
    assert proof.returncode == 0 and "3 shards, 15 samples, 15 rows" in proof.stdout, proof.stdout + proof.stderr
