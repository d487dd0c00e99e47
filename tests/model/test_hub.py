"""The pretrained weights are downloaded from a hub that a local server plays."""

from __future__ import annotations

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch

from tests.support.jobs import ROOT
from tests.support.weight_files import hollow_state

HUB_PATH = "/timm/inception_v4.tf_in1k/resolve/main/model.safetensors"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a download needs: HEAD and GET of one file."""

    content = b""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Hub.asked.append(f"{self.command} {self.path}")
        found = self.path == HUB_PATH
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(self.content)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Hub.asked = []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def load_pretrained(home: Path, endpoint: str, before: str = "") -> str:
    """What `load` says in a fresh process with this HF_HOME and HF_ENDPOINT: its error, or the logits' number."""
    program = f"""
from pipeline.model import weights
{before}
try:
    print("loaded", *weights.load(weights.identify("pretrained"))["last_linear.weight"].shape)
except weights.UserError as error:
    print(error)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True, env=kept | {
        "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}).strip()


@pytest.mark.slow
def test_pretrained_comes_from_the_hub_once(tmp_path: Path, hub: str) -> None:
    Hub.content = safetensors.torch.save({name: t.half().contiguous() for name, t in hollow_state().items()})
    digest = f"weights.HUB_SHA256 = {hashlib.sha256(Hub.content).hexdigest()!r}"
    assert load_pretrained(tmp_path, hub, digest) == "loaded 1000 1536"
    assert f"GET {HUB_PATH}" in Hub.asked
    Hub.asked.clear()
    assert load_pretrained(tmp_path, hub, digest) == "loaded 1000 1536"
    assert Hub.asked == []  # from the cache


def test_pretrained_of_another_digest_is_refused(tmp_path: Path, hub: str) -> None:
    Hub.content = b"somebody else's weights"
    message = load_pretrained(tmp_path, hub)
    assert message.startswith("--weights pretrained: ") and "not a756a086…" in message and str(tmp_path) in message


def test_an_unreachable_hub_is_said_within_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    message = load_pretrained(tmp_path, "http://127.0.0.1:9")
    assert "timm/inception_v4.tf_in1k cannot be had from http://127.0.0.1:9" in message and "seed:0" in message
    assert message.count("\n") == 0 and time.monotonic() - started < 15


def test_a_hub_without_the_file(tmp_path: Path, hub: str) -> None:
    message = load_pretrained(tmp_path, hub + "/elsewhere")
    assert message.startswith("--weights pretrained: ") and "404" in message and "\n" not in message
