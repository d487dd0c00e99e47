"""The runners of a CUDA device answer right on a stand-in for the device. No GPU is needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.model.inception_v4 import Conv
from pipeline.runners import on_cuda, probe
from pipeline.runners.folded import FoldedConv, UintNetwork, fuse_layers
from pipeline.runners.labeller import Labeller
from pipeline.runners.on_cuda import FastCuda, choose_batch_size, largest_batch_that_fits
from tests.support.cuda_stand_in import StandIn, install
from tests.support.jobs import load_seed
from tests.support.tiny_labeller import BATCH, IMAGES, assert_same, expected, labeller
from tests.support.tiny_network import TinyNetwork, tiny_state


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("runner", ["fast", "plain"])
def test_any_number_of_images(device: StandIn, runner: str, precision: str) -> None:
    found = labeller(runner, precision)
    assert (found.runner, found.runner_note, found.batch_size, found.num_top) == (runner, "", BATCH, 5)
    for number in (1, 2, 3, 4, 5, 8, 9, 16, 21, 0):
        answer_NK = found(IMAGES[:number])
        assert answer_NK.shape == (number, 10 + 1536)
        if number:
            assert np.allclose(answer_NK, expected(IMAGES[:number], precision), rtol=2e-2, atol=2e-2)


def test_places_in_the_batches_of_a_call(device: StandIn) -> None:
    assert [labeller("fast").slots_for(number) for number in (0, 1, 2, 3, 4, 5, 8, 9, 13, 21)] == [
        0, 2, 2, 4, 4, 8, 8, 10, 16, 24]
    assert labeller("plain").slots_for(21) == 21


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("runner", ["fast", "plain"])
def test_calls_at_the_same_time(device: StandIn, runner: str, threads: int) -> None:
    found = labeller(runner)
    parts = [IMAGES[at:at + 1 + at % 10] for at in range(18)] * 2
    with ThreadPoolExecutor(threads) as pool:
        for part, answer_NK in zip(parts, pool.map(found, parts), strict=True):
            assert_same(answer_NK, images=part)


@pytest.mark.parametrize(("kind", "at"), [("copy", 1), ("copy", 2), ("copy", 3), ("replay", 1), ("synchronize", 1)])
def test_a_call_that_fails_leaves_the_next_ones_right(device: StandIn, kind: str, at: int) -> None:
    found = labeller("fast")
    for turn in range(2 * on_cuda.NUM_SLOTS):  # each place fails, and comes back
        device.fail(kind, at)
        with pytest.raises(RuntimeError, match=f"{kind} failed"):
            found(IMAGES[turn:turn + 5])
        assert_same(found(IMAGES[10:17]), images=IMAGES[10:17])


def test_a_lost_device_raises_in_every_call_and_none_waits_for_ever(device: StandIn) -> None:
    found = labeller("fast")
    device.lost = True
    with ThreadPoolExecutor(3) as pool:
        errors = [call.exception(timeout=30) for call in [pool.submit(found, IMAGES[:3]) for _ in range(10)]]
    assert {type(error) for error in errors} == {RuntimeError}
    assert "illegal memory access" in str(errors[0]) and "failed in an earlier batch" in str(errors[-1])


def test_no_thread_spins(device: StandIn) -> None:
    with pytest.raises(AssertionError, match="spins"):
        torch.cuda.Event().synchronize()
    run = labeller("fast").run
    assert isinstance(run, FastCuda)
    slots = [run.slots.get() for _ in range(on_cuda.NUM_SLOTS)]
    assert all(event.blocking for slot in slots if slot
               for event in (slot.copied, slot.done))  # type: ignore[attr-defined]


def test_a_start_captures_each_size_once(device: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    forward = TinyNetwork.forward
    monkeypatch.setattr(TinyNetwork, "forward", lambda self, x: passes.append(len(x))
                        or forward(self, x))  # type: ignore[func-returns-value]
    searched: list[tuple[bool, int]] = []
    capture = FastCuda._capture

    def spy(self: FastCuda, size: int) -> Any:
        searched.append((torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit))
        return capture(self, size)
    monkeypatch.setattr(FastCuda, "_capture", spy)
    FastCuda(TinyNetwork(tiny_state(), torch.float16, 5), BATCH)  # type: ignore[arg-type]
    assert device.calls["capture"] == 1 + 3  # the first fills memory with NaN
    assert sorted(passes) == sorted([8, 4, 2] * (on_cuda.NUM_WARM_UPS + 1)) and len(passes) < 10
    assert searched == [(True, on_cuda.MAX_ALGORITHMS)] * 3 and 0 < on_cuda.MAX_ALGORITHMS < 10
    assert not torch.backends.cudnn.benchmark and torch.backends.cudnn.deterministic


def test_the_fused_layer_reads_no_memory_that_nobody_wrote(device: StandIn) -> None:
    layer = FoldedConv(Conv(3, 8, (3, 1), stride=2, padding=(1, 0)), torch.bfloat16, 1)
    x_NCHW = torch.randn(2, 3, 9, 7).bfloat16().contiguous(memory_format=torch.channels_last)
    apart_NCHW = layer(x_NCHW)
    fuse_layers(layer, torch.zeros(2 * 8 * 9 * 9, dtype=torch.bfloat16))
    device.memory.fill_(torch.nan)
    assert torch.cudnn_convolution_relu(x_NCHW, layer.weight, layer.bias, (2, 2), (1, 0), (1, 1), 1).isnan().all()
    torch.testing.assert_close(layer(x_NCHW), apart_NCHW)


@pytest.mark.parametrize(("runner", "precision", "fused"), [
    ("fast", "fp16", True), ("fast", "bf16", True), ("fast", "fp32", False), ("plain", "fp16", False)])
def test_only_the_fast_runner_in_half_precision_fuses(device: StandIn, runner: str, precision: str,
                                                      fused: bool) -> None:
    layers = [layer for layer in labeller(runner, precision).run.network.modules() if isinstance(layer, FoldedConv)]
    assert [layer.zeros is not None for layer in layers] == [fused]


def test_images_without_finite_answers_are_rows(device: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    scale_convolution(monkeypatch, 4e4)  # in fp16 black and white end as inf; grey, noise and photographs do not
    images = np.concatenate([np.full((1, 299, 299, 3), 127, np.uint8), np.zeros((1, 299, 299, 3), np.uint8)] * 2)
    for runner in ("fast", "plain"):
        found = labeller(runner)
        assert found.runner == runner  # that black has no finite answer is no fault of it
        assert np.isfinite(found(images)).all(1).tolist() == [True, False] * 2
        np.testing.assert_array_equal(np.isfinite(found(np.roll(images, 1, 0))).all(1), [False, True] * 2)


def scale_convolution(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    make = TinyNetwork.__init__

    def scaled(self: TinyNetwork, *args: Any) -> None:
        make(self, *args)
        self.features.weight.mul_(factor)
    monkeypatch.setattr(TinyNetwork, "__init__", scaled)


def test_the_old_rule_of_inference_tensors_holds_here(device: StandIn) -> None:
    with torch.inference_mode():
        place = torch.zeros(2, device="cuda")
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        place.copy_(torch.ones(2), non_blocking=True)


@pytest.mark.slow
def test_inception_v4_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setattr(on_cuda, "ACTIVATION_BYTES", 2**20)
    state = load_seed()
    found = Labeller(state, "cuda", "bf16", batch_size=2)
    assert (found.runner, found.runner_note) == ("fast", "")
    assert sum(layer.zeros is not None for layer in found.run.network.modules() if isinstance(layer, FoldedConv)) == 149
    with torch.inference_mode():
        embedding_ND = UintNetwork(state, torch.float32, 5)(torch.tensor(IMAGES[:3])).numpy()[:, 10:]
    assert probe.row_cosines(found(IMAGES[:3])[:, 10:], embedding_ND).min() >= 0.9999


def test_the_batch_size_follows_the_device() -> None:
    large = 80 * 2**30
    assert [choose_batch_size(None, large, number) for number in (132, 60, 58, 40, 16)] == [256, 256, 128, 64, 64]
    assert choose_batch_size(32, large, 132) == 32 and choose_batch_size(None, 2**30, 132) == 16
    assert [largest_batch_that_fits(256, free * 2**30) for free in (80, 16, 8, 1)] == [256, 256, 128, 16]
    assert largest_batch_that_fits(1, 0) == 1


def test_cosines() -> None:
    a, b = np.array([[1.0, 0], [0, 0], [0, 0], [3, 4]]), np.array([[2.0, 0], [0, 0], [1, 0], [-3, -4]])
    np.testing.assert_allclose(probe.row_cosines(a, b), [1, 1, 0, -1])


@pytest.mark.parametrize("runner", ["fast", "plain"])
def test_of_equal_probabilities_the_first_class_comes_first(device: StandIn, runner: str) -> None:
    even = {"last_linear.weight": torch.zeros(1000, 1536), "last_linear.bias": torch.zeros(1000)}
    even["last_linear.bias"][[900, 17, 999, 3, 500, 30, 31]] = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert (labeller(runner, state=even)(IMAGES[:3])[:, :5] == [900, 17, 3, 30, 31]).all()
