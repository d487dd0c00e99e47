"""The trial of the fast runner: one that answers wrong, raises or drifts is not used. No GPU is needed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.runners.on_cuda import FastCuda
from tests.support.cuda_stand_in import StandIn
from tests.support.cuda_streams import Event
from tests.support.tiny_labeller import IMAGES, assert_same, labeller
from tests.support.tiny_network import tiny_state


def shuffled(y_NCHW: Tensor) -> Tensor:
    return y_NCHW.roll(1, 1)


def drifting(device: StandIn) -> Callable[[Tensor], Tensor]:
    ticks = torch.zeros(())
    return lambda y_NCHW: y_NCHW * (1 + torch.frac(ticks.add_(0.003)))


FAULTS: dict[str, tuple[str, Callable[[StandIn], object]]] = {
    "a capture raises": ("it raised RuntimeError: CUDA error: capture failed",
                         lambda device: device.fail("capture", 2)),
    "a replay raises": ("it raised RuntimeError: CUDA error: replay failed", lambda device: device.fail("replay", 4)),
    "a copy raises": ("it raised RuntimeError: CUDA error: copy failed", lambda device: device.fail("copy", 7)),
    "wrong": ("an embedding has cosine .* the least is 0.9999", lambda device: setattr(device, "fault", shuffled)),
    "wrong in the full batch": ("cosine .* images in a batch of 8", lambda device: setattr(
        device, "fault", lambda y: shuffled(y) if len(y) == 8 else y)),
    "wrong in a small batch": ("cosine .* images in a batch of 2", lambda device: setattr(
        device, "fault", lambda y: shuffled(y) if len(y) == 2 else y)),
    "inf": ("finite for other images", lambda device: setattr(device, "fault", lambda y: y + torch.inf)),
    "reads NaN": ("finite for other images", lambda device: setattr(device, "fault", device.nan_memory)),
    "not repeatable": ("other answers the second time", lambda device: setattr(device, "fault", drifting(device))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fast_runner_that_fails_its_trial_is_not_used(device: StandIn, fault: str) -> None:
    why, break_it = FAULTS[fault]
    break_it(device)
    found = labeller()
    assert found.runner == "plain" and found.runner_note.startswith("the fast runner was not trusted: ")
    assert re.search(why, found.runner_note), found.runner_note
    assert "\n" not in found.runner_note
    assert_same(found(IMAGES))
    break_it(device)
    with pytest.raises(UserError, match=f"--runner fast: the fast runner was not trusted: .*{why}"):
        labeller("fast")


@pytest.mark.parametrize("broken", ["wait", "record"])
@pytest.mark.parametrize("device", ["late"], indirect=True)
def test_the_trial_sees_a_missing_wait(device: StandIn, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setattr(Event, broken, lambda event: None)
    found = labeller()
    assert found.runner == "plain" and found.runner_note
    assert_same(found(IMAGES))


def test_wrong_classes_are_seen(device: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = FastCuda._capture

    def of_another_head(self: FastCuda, size: int) -> Any:
        self.network.last_linear.bias.copy_(torch.linspace(0, 5, 20))
        return capture(self, size)
    monkeypatch.setattr(FastCuda, "_capture", of_another_head)
    assert "its classes are not those of its embeddings" in labeller().runner_note


def test_a_lost_device_is_not_hidden(device: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = FastCuda._capture

    def lose(self: FastCuda, size: int) -> Any:
        device.lost = True
        return capture(self, size)
    monkeypatch.setattr(FastCuda, "_capture", lose)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        labeller()


def test_weights_without_any_finite_answer(device: StandIn) -> None:
    huge = tiny_state() | {"last_linear.weight": torch.full((20, 1536), 1e38)}
    found = labeller(state=huge)
    assert found.runner == "plain" and "no probe image has a finite answer" in found.runner_note
    assert not np.isfinite(found(IMAGES[:3])).all(1).any()


def test_the_trial_leaves_no_graph_that_spoils_memory(device: StandIn) -> None:
    run = labeller("fast").run
    assert isinstance(run, FastCuda) and run.spoiler is None
