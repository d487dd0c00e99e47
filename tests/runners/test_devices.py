"""The device and the precision are chosen by what the machine has, or refused in one sentence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.runners.labeller import Labeller, resolve_device
from pipeline.runners.precision import resolve_precision


def test_devices_and_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [resolve_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(UserError, match="--device cuda"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [resolve_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]

    assert [resolve_precision(name, "cpu") for name in ("fp32", "bf16")] == ["fp32", "bf16"]
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for native, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert resolve_precision("auto", "cpu") == precision

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    for capability, precision in (((6, 1), "fp32"), ((7, 0), "fp16"), ((12, 0), "fp16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert resolve_precision("auto", "cuda") == precision
    assert [resolve_precision(name, "cuda") for name in ("auto", "fp16", "fp32")] == ["fp16", "fp16", "fp32"]
    with pytest.raises(UserError, match="--precision bf16"):
        resolve_precision("bf16", "cuda")


def test_a_process_that_does_not_see_its_gpu_says_so(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for value, told in (("7", "CUDA_VISIBLE_DEVICES is '7' here"), (None, "CUDA_VISIBLE_DEVICES is not set here")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if value:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        with pytest.raises(UserError, match=told):
            resolve_precision("auto", "cuda")
        with pytest.raises(UserError, match=told):
            Labeller(state, "cuda", "fp16")


@pytest.mark.skipif(torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this processor computes in fp16")
def test_fp16_where_the_processor_lacks_it() -> None:
    with pytest.raises(UserError, match="--precision fp16"):
        resolve_precision("fp16", "cpu")
