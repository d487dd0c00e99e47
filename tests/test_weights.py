"""Weights: identities without torch, files that fit or are refused in a sentence, a hub on 127.0.0.1."""

import hashlib
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from pipeline import weights
from pipeline.config import UserError
from pipeline.inception_v4 import InceptionV4


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return {name: value for name, value in InceptionV4(1001).state_dict().items()}


def test_identities_need_no_torch():
    code = ("import sys; from pipeline.weights import identify; print(identify('seed:0').model_id, "
            "identify('seed:1').model_id, identify('pretrained').model_id, 'torch' in sys.modules)")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] != said[1] and said[2:] == ["inception_v4-a756a086", "False"]


def test_a_file_of_1001_classes_loses_the_first(tmp_path, state):
    path = str(tmp_path / "w.pth")
    torch.save(state, path)
    loaded = weights.load(weights.identify(path))
    assert torch.equal(loaded["last_linear.weight"], state["last_linear.weight"][1:])
    assert torch.equal(loaded["last_linear.bias"], state["last_linear.bias"][1:])
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors")
    again = weights.load(weights.identify(str(tmp_path / "w.safetensors")))
    assert loaded.keys() == again.keys() and all(torch.equal(loaded[name], again[name]) for name in loaded)


def test_a_pickle_with_a_payload_is_refused_and_does_not_run(tmp_path):
    mark = tmp_path / "mark"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"last_linear.weight": Payload()}))
    with pytest.raises(UserError, match="--weights .*evil.pth is not a .pth file of tensors only"):
        weights.load(weights.identify(str(path)))
    assert not mark.exists()


@pytest.mark.parametrize(("change", "says"), [
    (lambda s: s.pop("last_linear.bias"), "lacks 'last_linear.bias'"),
    (lambda s: s.update(extra=torch.zeros(1)), "has unknown 'extra'"),
    (lambda s: s.update({"last_linear.weight": torch.zeros(1001, 7)}), "has shape"),
    (lambda s: s.update({"last_linear.bias": torch.full((1001,), torch.nan)}), "not finite"),
])
def test_a_file_that_does_not_fit_is_refused(tmp_path, state, change, says):
    changed = dict(state)
    change(changed)
    path = str(tmp_path / "w.pth")
    torch.save(changed, path)
    with pytest.raises(UserError, match=says):
        weights.load(weights.identify(path))


@pytest.mark.parametrize("spec", ["seed:x", "seed:-1", "model.bin", "/absent/w.pth"])
def test_a_wrong_value_names_the_flag(spec):
    with pytest.raises(UserError, match=f"--weights {spec}"):
        weights.identify(spec)


def test_a_file_that_changes_after_planning_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"one")
    seen = weights.identify(str(path))
    path.write_bytes(b"two")
    with pytest.raises(UserError, match="damaged or another version"):
        weights.load(seen)


@pytest.mark.slow
def test_seeds_are_deterministic():
    first, again = (weights.load(weights.identify("seed:3")) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert weights.identify("seed:3").meaningless and first["last_linear.weight"].shape == (1000, 1536)


DOWNLOAD = """
import sys
from pipeline import weights
from pipeline.config import UserError
weights.HUB_SHA256 = sys.argv[1]
try:
    print(len(weights.load(weights.identify("pretrained"))))
except UserError as error:
    print(error)
"""


@pytest.fixture
def hub(tmp_path, state):
    """A hub on 127.0.0.1 that has one file; yields its address, its home for the cache, and the file's SHA-256."""
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    body = path.read_bytes()
    digest = hashlib.sha256(body).hexdigest()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{digest}"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", str(tmp_path / "home"), digest
    server.shutdown()
    thread.join()
    server.server_close()


def download(endpoint: str, home: str, digest: str) -> str:
    environ = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    environ.pop("HF_HUB_OFFLINE", None)
    return subprocess.run([sys.executable, "-c", DOWNLOAD, digest], env=environ, capture_output=True, text=True,
                          check=True).stdout


def test_pretrained_comes_from_the_hub_checked_and_cached(hub):
    endpoint, home, digest = hub
    num_tensors = str(sum(not name.endswith("num_batches_tracked") for name in InceptionV4().state_dict()))
    assert download(endpoint, home, digest).strip() == num_tensors
    assert download("http://127.0.0.1:9", home, digest).strip() == num_tensors  # from the cache
    assert "has SHA-256" in download(endpoint, home, "0" * 64)


def test_a_hub_out_of_reach_is_one_sentence(tmp_path):
    said = download("http://127.0.0.1:9", str(tmp_path), "0" * 64)
    assert said.startswith("--weights pretrained: timm/inception_v4.tf_in1k cannot be had") and said.count("\n") == 1
