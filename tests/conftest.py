"""Shared by the wider tests: shards of packaged photographs, the job as a process, a real S3 server."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.store import retry
from tests.support.clouds import Server, serve_abfs, serve_gs
from tests.support.faults import FaultProxy
from tests.support.jobs import SEED, job
from tests.support.once import make_once
from tests.support.processes import wait_until
from tests.support.s3 import KEY, SECRET, forget_s3, free_ports
from tests.support.tars import make_tar

pytest_plugins = ["tests.support.skips"]


def pytest_configure() -> None:
    """Hide any other Ray of this machine from the tests: Ray notes in its temporary folder which ones run."""
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short, for the paths of Ray's sockets


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ.pop("RAY_TMPDIR"), ignore_errors=True)


@pytest.fixture(scope="session")
def photographs() -> list[tuple[str, bytes]]:
    """Real photographs as members of a tar: name and bytes."""
    paths = [Path(str(files("skimage"))) / "data" / name for name in
             ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "coins.png", "moon.png")]
    paths += [Path(str(files("sklearn"))) / "datasets/images" / name for name in ("china.jpg", "flower.jpg")]
    return [(path.name, path.read_bytes()) for path in paths]


@pytest.fixture(scope="session")
def few_photographs(photographs: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The photographs in each shard of `shards`."""
    return photographs[::2]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, few_photographs: list[tuple[str, bytes]]) -> Path:
    """Five shards of five photographs, one in a folder, one packed. Tests only read this folder."""
    def make(folder: Path) -> None:
        (folder / "dt=2026-11-23").mkdir()
        for number, name in enumerate(("a.tar", "b.tar", "c.tar.gz", "dt=2026-11-23/d.tar", "e.tar")):
            data = make_tar(*((f"{number}/{member}", content) for member, content in few_photographs))
            (folder / name).write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)

    return make_once(tmp_path_factory, "shards", make)


@pytest.fixture(scope="session")
def undisturbed(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run over `shards` that nothing disturbed. Tests only read this folder."""
    def make(output: Path) -> None:
        done = job("label", "--input", shards, "--output", output, *SEED, "--batch-size", 4, own_ray=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "5 labelled, 0 skipped (done before), 0 failed" in done.stdout
        # No line of Ray's C++ part, such as that about constructor arguments.
        assert ".cc:" not in done.stdout + done.stderr

    return make_once(tmp_path_factory, "undisturbed", make)


@pytest.fixture(scope="session")
def s3(tmp_path_factory):
    """Environment of a SeaweedFS server on 127.0.0.1 with the bucket `photos`."""
    import s3fs
    folder = tmp_path_factory.mktemp("seaweed")
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{
        "name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
    master, volume, filer, port = free_ports(4)
    (folder / "data").mkdir()
    weed = Path(sys.executable).parent / "weed"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
             "-master.telemetry=false", "-filer", "-s3", f"-s3.config={config}", "-s3.autoCreateBucket=false",
             "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=200",
             "-volume.preStopSeconds=0", "-master.electionTimeout=1s", "-master.resumeState=false",
             f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={port}"],
            stdout=log, stderr=log, cwd=folder)
    environ = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
               "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}
    fs = s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=environ["AWS_ENDPOINT_URL"],
                           client_kwargs={"region_name": "us-east-1"}, skip_instance_cache=True)
    wait_until(lambda: server.poll() is not None or _answers(fs), "the S3 server does not answer", 60, 0.2)
    assert server.poll() is None, (folder / "log").read_text()[-2000:]
    yield environ, fs
    server.send_signal(signal.SIGKILL)
    server.wait()


def _answers(fs) -> bool:
    """Whether the server takes a signed put and gives it back. An open port says little."""
    try:
        fs.mkdir("photos")
        fs.pipe_file("photos/probe", b"1")
        is_back = fs.cat_file("photos/probe") == b"1"
        fs.rm("photos/probe")
    except (OSError, BotoCoreError, ClientError):  # the server is still starting
        return False
    return is_back


@pytest.fixture(scope="session")
def gs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for `gs://photos`."""
    with serve_gs(tmp_path_factory.mktemp("gs")) as server:
        yield server


@pytest.fixture(scope="session")
def abfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for `abfs://photos`."""
    with serve_abfs(tmp_path_factory.mktemp("abfs")) as server:
        yield server


@pytest.fixture
def proxy(s3, monkeypatch):
    """A fault proxy before the server, which this process uses until the test ends. The bucket's `faults/` is empty."""
    environ, fs = s3
    proxy = FaultProxy(int(environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1]))
    for name, value in (environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    forget_s3()
    fs.invalidate_cache()  # other clients have put files there
    if fs.exists("photos/faults"):
        fs.rm("photos/faults", recursive=True)
    yield proxy
    proxy.close()
    forget_s3()
