"""OpenVINO's runner: torch's answers, faster where it is faster; and what is said where it cannot be trusted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.runners import checks, probe_on_cpu
from pipeline.runners.folded import UintNetwork
from pipeline.runners.labeller import Labeller
from pipeline.runners.on_openvino import OnOpenVino
from pipeline.runners.probe import row_cosines

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def exact(state: dict[str, Tensor], image_NHWC: np.ndarray) -> np.ndarray:
    return Labeller(state, "cpu", "fp32", 2, runner="plain")(image_NHWC)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("bf16", 0.9999)])
def test_the_answers_are_those_of_torch(state: dict[str, Tensor], image_NHWC: np.ndarray, exact: np.ndarray,
                                        precision: str, least: float) -> None:
    runner = Labeller(state, "cpu", precision, 2, runner="fast")
    assert (runner.runner, runner.runner_note, runner.batch_size) == ("openvino", "", 8)
    answer_NK = runner(image_NHWC)
    assert row_cosines(answer_NK[:, 10:], exact[:, 10:]).min() > least
    assert (answer_NK[:, 0] == exact[:, 0]).all()
    assert runner(image_NHWC[:0]).shape == (0, answer_NK.shape[1])
    for number in (1, 3, 4, 5):  # a part of a batch is padded, and the padding changes nothing
        assert np.array_equal(runner(image_NHWC[:number]), answer_NK[:number])
    assert [runner.slots_for(number) for number in (0, 1, 4, 5)] == [0, 4, 4, 8]


class Stand(OnOpenVino):
    """torch in the place of OpenVINO, so that a test may spoil its answers."""

    answer = staticmethod(lambda answer_NK: answer_NK)

    def __init__(self, network: UintNetwork, num_threads: int) -> None:
        self.network, self.num_threads = network, num_threads

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return type(self).answer(self.network(torch.tensor(image_NHWC)).numpy())


def refuse(answer_NK: np.ndarray) -> np.ndarray:
    raise RuntimeError("no such instruction\nat line 3")


def differ(answer_NK: np.ndarray) -> np.ndarray:
    return answer_NK * np.linspace(0.5, 2, answer_NK.shape[1], dtype=np.float32)


@pytest.mark.parametrize(("fault", "why"), [
    (refuse, "it raised RuntimeError: no such instruction"), (differ, "an embedding has cosine"),
    (lambda answer_NK: answer_NK + np.inf, "finite for other images")])
def test_what_is_wrong_is_not_used(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, fault: Any,
                                   why: str) -> None:
    monkeypatch.setattr(probe_on_cpu, "OnOpenVino", Stand)
    monkeypatch.setattr(Stand, "answer", staticmethod(fault))
    found = Labeller(state, "cpu", "fp32", 1)
    assert found.runner == "cpu" and found.runner_note.startswith("OpenVINO was not trusted: ")
    assert why in found.runner_note and "\n" not in found.runner_note
    with pytest.raises(UserError, match="--runner fast: OpenVINO was not trusted"):
        Labeller(state, "cpu", "fp32", 1, runner="fast")


def test_the_faster_one_is_taken(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_on_cpu, "OnOpenVino", Stand)
    for faster, name in ((True, "openvino"), (False, "cpu")):
        monkeypatch.setattr(probe_on_cpu, "_is_faster", lambda *_, faster=faster: faster)
        found = Labeller(state, "cpu", "fp32", 1)
        assert (found.runner, found.runner_note) == (name, "")


def test_where_it_is_not_installed(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_on_cpu, "has_openvino", lambda: False)
    monkeypatch.setattr(checks, "has_openvino", lambda: False)
    assert Labeller(state, "cpu", "fp32", 1).runner == "cpu"
    with pytest.raises(UserError, match="on a CPU the package openvino"):
        Labeller(state, "cpu", "fp32", 1, runner="fast")
