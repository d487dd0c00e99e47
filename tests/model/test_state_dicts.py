"""Weights as people save them: wrappers are taken off; other files are refused with a sentence that says what to do."""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model import state_dicts, weights
from pipeline.model.inception_v4 import Conv

# Two layers stand for Inception-v4, whose tensors would take minutes here; `test_weights.py` has the real network.


class Small(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(Conv(3, 4, 3), Conv(4, 6, 1))
        self.last_linear = nn.Linear(6, num_classes)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(state_dicts, "InceptionV4", Small)


SEVEN = Small(7).state_dict() | {"last_linear.bias": torch.arange(7.0)}
PARALLEL = {"module." + name: tensor for name, tensor in SEVEN.items()}
COMPILED = {"_orig_mod." + name: tensor for name, tensor in SEVEN.items()}
LIGHTNING = {"model." + name: tensor for name, tensor in SEVEN.items()}


def saved(held: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(held, file, **options)
    return file.getvalue()


@pytest.mark.parametrize("held", [
    SEVEN, PARALLEL, COMPILED, LIGHTNING, {"module." + name: tensor for name, tensor in COMPILED.items()},
    {"state_dict": LIGHTNING, "epoch": 3, "pytorch-lightning_version": "2.5",
     "optimizer_states": [{"state": {0: torch.zeros(2)}}], "loops": {}},
    {"model": PARALLEL, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "ema": None},
    {"model_state_dict": COMPILED, "loss": 0.5},
    {"epoch": 3, "arch": "inception_v4", "state_dict": PARALLEL, "args": argparse.Namespace(lr=0.1, extra=[1]),
     "version": 2},
    {"net": SEVEN, "acc": 97.1}, {"ema": {"module": SEVEN, "decay": 0.999}}, {"state_dict": {"model": SEVEN}},
    {"module." + name: tensor for name, tensor in SEVEN.items()} | {"n_averaged": torch.tensor(3)},
    {name.replace("features.1.", "features.1._orig_mod."): tensor for name, tensor in SEVEN.items()},
    {name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in SEVEN.items()},
    {name: tensor.half() for name, tensor in SEVEN.items()},
    {name: tensor.bfloat16() for name, tensor in PARALLEL.items()},
    {name: tensor.double() for name, tensor in SEVEN.items()}])
@pytest.mark.parametrize("legacy", [False, True])
def test_what_is_around_the_tensors_is_taken_off(held, legacy):
    state = state_dicts.read_state_dict(saved(held, _use_new_zipfile_serialization=not legacy))
    assert state.keys() == {name for name in SEVEN if "num_batches" not in name}
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in state.values())
    assert state["last_linear.bias"].tolist() == list(range(7))


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.bin", "a.ckpt", "a.pth.tar", "A.PT", "safe.bin",
                                  "safe.safetensors"])
def test_the_names_that_people_give(tmp_path: Path, name: str) -> None:
    whole = {key: tensor.contiguous() for key, tensor in PARALLEL.items()}
    (tmp_path / name).write_bytes(safetensors.torch.save(whole) if "safe" in name else saved({"state_dict": whole}))
    chosen = weights.identify(str(tmp_path / name))
    assert weights.load(chosen)["last_linear.weight"].shape == (7, 6)


def refusal(held: Any) -> str:
    with pytest.raises(state_dicts.Unfit) as caught:
        state_dicts.read_state_dict(held if isinstance(held, bytes) else saved(held))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_unexpected_or_of_another_shape_is_named():
    lacking = {name: tensor for name, tensor in LIGHTNING.items() if not name.startswith("model.features.1.")}
    lacking |= {"criterion.weight": torch.zeros(7), "model.features.0.conv.weight": torch.zeros(4, 1, 3, 3)}
    message = refusal({"state_dict": lacking})
    assert "it lacks 'features.1.bn.bias', 'features.1.bn.running_mean', 'features.1.bn.running_var' and 2" in message
    assert " more; it has unknown 'criterion.weight'; " in message
    assert message.endswith("'features.0.conv.weight' has shape [4, 1, 3, 3], not [4, 3, 3, 3]")
    assert "is not of Inception-v4: it lacks" in refusal(nn.Linear(2, 2).state_dict())


def test_two_sets_of_tensors_are_not_chosen_from():
    assert refusal({"model": SEVEN,
                    "ema": SEVEN}) == ("holds 2 state dicts, under 'model' and 'ema'; save the one that is meant "
                                                       "alone, such as 'ema': torch.save(torch.load(FILE, 'cpu', "
                                                       "weights_only=False)['ema'], NEW)")
    timms = {"state_dict": SEVEN, "state_dict_ema": PARALLEL, "epoch": 3,
             "args": argparse.Namespace(model="inception_v4", lr=0.1)}
    assert "under 'state_dict' and 'state_dict_ema'; " in refusal(timms)
    assert "torch.save(torch.load(FILE, 'cpu', weights_only=False)['ema']['module'], NEW)" in refusal(
        {"net": SEVEN, "ema": {"module": SEVEN}}
    )
    both = LIGHTNING | {"ema.last_linear.bias": torch.zeros(7)}
    assert "two tensors for 'last_linear.bias', 'model.last_linear.bias' and 'ema.last_linear.bias'" in refusal(both)
    assert refusal({"state_dict": both}).endswith(
        "{k: v for k, v in torch.load(FILE, 'cpu', weights_only=False)['state_dict'].items() "
        "if k.startswith('ema.')}, NEW)"
    )


@pytest.mark.parametrize("held", [{"net": SEVEN, "ema": {"module": PARALLEL}},
                                  {"state_dict": LIGHTNING | {"ema." + k: v for k, v in SEVEN.items()}},
    {"state_dict": SEVEN, "state_dict_ema": PARALLEL, "args": argparse.Namespace(lr=0.1)},
    safetensors.torch.save(LIGHTNING | {"ema." + k: v.clone() for k, v in SEVEN.items()})])
def test_the_line_that_is_told_mends_the_file(tmp_path, monkeypatch, held):
    monkeypatch.chdir(tmp_path)
    Path("old.pth").write_bytes(held if isinstance(held, bytes) else saved(held))
    line = refusal(held)
    line = line[line.index("torch.save("):].replace("FILE", "'old.pth'").replace("NEW", "'new.pth'")
    exec(line, {"torch": torch, "safetensors": safetensors})  # as a user would
    assert state_dicts.read_state_dict(Path("new.pth").read_bytes())["last_linear.bias"].tolist() == list(range(7))


def test_a_head_without_outputs_is_refused_and_of_one_is_not():
    assert refusal(Small(1).state_dict() | {"last_linear.weight": torch.zeros(0, 6),
                                            "last_linear.bias": torch.zeros(0)}) == (
        "has a head without outputs; a network has at least one class")
    assert state_dicts.read_state_dict(saved(Small(1).state_dict()))["last_linear.weight"].shape == (1, 6)


def test_a_whole_model_is_refused_with_what_to_do():
    model = Small(7)
    for held in (model, {"model": model}):
        assert refusal(held).endswith("it needs code (tests.model.test_state_dicts.Small), which is not run; "
                                      "save its state_dict: torch.save(model.state_dict(), FILE)")
    for held in ([1, 2], {"epoch": 3}, {"model": "inception_v4", "epoch": torch.zeros(2)},
                 {"model": torch.zeros(2), "epoch": 3}):
        assert "something other than a state dict" in refusal(held) and "save its state_dict" in refusal(held)


def test_a_torchscript_archive_is_named():
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still found
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    assert "is a TorchScript archive" in refusal(file.getvalue())


@pytest.mark.parametrize("tensor", [torch.zeros(7, dtype=torch.int8), torch.zeros(7, device="meta"),
                                    torch.zeros(7).to_sparse(),
                                    torch.zeros(7, dtype=torch.complex64)])
def test_tensors_that_are_no_plain_numbers(tensor):
    assert "has 'last_linear.bias' as " in refusal(SEVEN | {"last_linear.bias": tensor})


@pytest.mark.parametrize(("content", "says"), [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
     "it is a Git LFS pointer, not the file itself (git lfs pull"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "it is an HTML page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "it is an XML error document (AccessDenied)"),
    (b"\x89HDF\r\n\x1a\n" + bytes(600), "it is an HDF5 file")])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_no_weights_file_is_told(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"--weights .* is not a file of tensors only, or is damaged: ") as caught:
        weights.load(weights.identify(str(tmp_path / name)))
    assert says in str(caught.value)
