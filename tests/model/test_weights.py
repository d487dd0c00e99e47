"""The weights: their identity, files good and bad, and seeds."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch

from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.inception_v4 import InceptionV4
from tests.support.jobs import ROOT, load_seed
from tests.support.weight_files import failure, hollow_state, load, save


def test_identity_is_cheap_and_stable(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"not read as weights yet")
    digest = hashlib.sha256(b"not read as weights yet").hexdigest()
    assert weights.identify(str(path)) == weights.Weights(str(path), digest)
    assert weights.identify("pretrained").model_id == "inception_v4-a756a086"
    assert weights.identify("seed:0").model_id == "inception_v4-61350f2a"
    assert [weights.identify(spec).meaningless for spec in ("pretrained", str(path), "seed:0")] == [
        False, False, True]
    program = ("import sys; from pipeline.model.weights import identify; identify('seed:1'); "
               "print('torch' in sys.modules)")
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).strip() == "False"


@pytest.mark.parametrize("spec", ["", "pretrain", "seed:", "seed:-1", "seed:01", "seed:x", "weights.tar", "0"])
def test_other_values_are_refused(spec: str) -> None:
    failure(spec)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "missing.pth does not exist" in failure(str(tmp_path / "missing.pth"))


def test_a_file_of_1001_classes_loses_the_first(tmp_path: Path) -> None:
    state = hollow_state(1001)
    state["last_linear.bias"] = torch.arange(1001.0)
    state["last_linear.weight"] = torch.arange(1001.0)[:, None].expand(1001, 1536)
    loaded = load(save(state, tmp_path / "cadene.pth"))
    assert loaded["last_linear.bias"].tolist() == list(range(1, 1001))
    assert loaded["last_linear.weight"].shape == (1000, 1536) and loaded["last_linear.weight"][0, 0] == 1
    assert loaded["features.0.conv.weight"].shape == (32, 3, 3, 3)


def test_half_precision_other_classes_and_no_batch_counters(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in hollow_state(7).items() if "num_batches" not in name}
    loaded = load(save(state, tmp_path / "seven.pth"))
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert loaded["last_linear.weight"].shape == (7, 1536)
    assert not [name for name in loaded if "num_batches" in name]


def test_a_lightning_checkpoint_of_a_compiled_half_precision_model(tmp_path: Path) -> None:
    state = {f"model._orig_mod.{name}": tensor.half() for name, tensor in hollow_state(7).items()}
    loaded = load(save({"state_dict": state, "epoch": 3, "optimizer_states": [{}]}, tmp_path / "last.ckpt"))
    assert loaded["last_linear.weight"].shape == (7, 1536) and loaded["features.0.conv.weight"].dtype == torch.float32


def test_safetensors_at_a_uri() -> None:
    state = {name: tensor.half().contiguous() for name, tensor in hollow_state().items()}
    state["features.0.conv.weight"] += 0.5
    with fsspec.open("memory://weights/a.safetensors", "wb") as file:
        file.write(safetensors.torch.save(state))
    loaded = load("memory://weights/a.safetensors")
    assert loaded["features.0.conv.weight"].unique().tolist() == [0.5]
    fsspec.filesystem("memory").rm("/weights", recursive=True)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    whole = hollow_state()
    lacking = {name: tensor for name, tensor in whole.items() if name != "features.3.conv.bn.bias"}
    assert "it lacks 'features.3.conv.bn.bias'." in failure(save(lacking, tmp_path / "lacking.pth"))
    assert "it lacks 'features.0.bn.bias', 'features.0.bn.running_mean', 'features.0.bn.running_var' and" in failure(
        save({}, tmp_path / "empty.pth")
    )
    assert "it has unknown 'fc.weight'." in failure(save(whole | {"fc.weight": torch.zeros(1)}, tmp_path / "more.pth"))
    wrong = whole | {"features.0.conv.weight": torch.zeros(32, 1, 3, 3)}
    assert "has shape [32, 1, 3, 3], not [32, 3, 3, 3]" in failure(save(wrong, tmp_path / "wrong.pth"))
    unequal = whole | {"last_linear.bias": torch.zeros(999)}
    assert "'last_linear.bias' has shape [999], not [1000]" in failure(save(unequal, tmp_path / "unequal.pth"))
    scalar = whole | {"last_linear.weight": torch.tensor(1.0)}
    assert "'last_linear.weight' has shape []" in failure(save(scalar, tmp_path / "scalar.pth"))
    broken = whole | {"last_linear.bias": torch.full((1000,), torch.nan)}
    assert "has values in 'last_linear.bias' that are not finite" in failure(save(broken, tmp_path / "nan.pth"))
    assert "something other than a state dict" in failure(save([1, 2], tmp_path / "list.pth"))
    assert "something other than a state dict" in failure(save({"epoch": 3}, tmp_path / "epoch.pth"))


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100)])
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert "is damaged" in failure(str(path))


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(Payload(mark)))
    for spec, says in ((str(plain),
                        ", or is damaged: it is a Python pickle, of which only tensors are read; save its state_dict"),
                       (save({"x": Payload(mark)}, tmp_path / "zip.pth"),
                        ": it needs code (posix.mkdir), which is not run; save its")):
        assert f"is not a file of tensors only{says}" in failure(spec)
        assert not mark.exists()
    pickle.loads(plain.read_bytes())
    assert mark.exists()  # the payload itself works


def test_a_file_that_changed_since_it_was_identified(tmp_path: Path) -> None:
    spec = save(hollow_state(3), tmp_path / "a.pth")
    known = weights.identify(spec)
    save(hollow_state(4), tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"--weights .*a.pth has SHA-256"):
        weights.load(known)


@pytest.mark.slow
def test_seeds_are_stable_and_tell_images_apart() -> None:
    first, again, other = load("seed:3"), load("seed:3"), load_seed()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["features.0.conv.weight"], other["features.0.conv.weight"])
    network = InceptionV4().eval()
    network.load_state_dict(first)
    random = np.random.default_rng(0)
    coarse_NCHW = torch.from_numpy(random.uniform(-1, 1, (16, 3, 6, 6)).astype(np.float32))
    image_NCHW = torch.nn.functional.interpolate(coarse_NCHW, 299, mode="bilinear")
    noise_NCHW = torch.from_numpy(random.choice([-2 / 255, 0, 2 / 255], image_NCHW.shape, p=[0.002, 0.996, 0.002]))
    with torch.inference_mode():
        logits_NC = network(image_NCHW)[1]
        label_N = logits_NC.argmax(1)
        nearby_N = network((image_NCHW + noise_NCHW).float())[1].argmax(1)
    assert len(label_N.unique()) >= 6
    assert (label_N == nearby_N).float().mean() >= 0.9
    assert 0.02 < float(logits_NC.softmax(1).amax(1).median()) < 0.95
