"""The labeller on a GPU against timm's network. `test_on_cuda.py` needs no GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.runners.labeller import Labeller
from tests.support.timm_network import ask, relative_error


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("runner", ["fast", "plain"])
@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 8, 9, 17])
def test_a_gpu_takes_any_number_of_images(state: dict[str, Tensor], number: int, runner: str) -> None:
    image_NHWC = np.random.default_rng(0).integers(0, 256, (number, 299, 299, 3), np.uint8)
    whole, few = (ask(Labeller(state, "cuda", "fp32", batch_size=size, runner=runner), image_NHWC) for size in (32, 8))
    assert whole.embedding.shape == (number, 1536)
    np.testing.assert_allclose(few.embedding, whole.embedding, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("runner", ["fast", "plain"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3), ("bf16", 2e-2)])
def test_a_gpu_says_what_timm_says(state: dict[str, Tensor], image_NHWC: np.ndarray, expected: tuple[Tensor, Tensor],
                                   precision: str, tolerance: float, runner: str) -> None:
    labeller = Labeller(state, "cuda", precision, runner=runner)
    assert labeller.runner == runner
    embedding = torch.from_numpy(ask(labeller, image_NHWC).embedding.copy())
    assert relative_error(embedding, expected[0]).max() < tolerance
    assert nn.functional.cosine_similarity(embedding, expected[0]).min() >= 0.9999


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_answers_calls_at_the_same_time(state: dict[str, Tensor]) -> None:
    labeller = Labeller(state, "cuda", "fp16", batch_size=16, runner="fast")
    random = np.random.default_rng(0)
    parts = [random.integers(0, 256, (1 + at % 16, 299, 299, 3), np.uint8) for at in range(20)]
    alone = [labeller(part) for part in parts]
    with ThreadPoolExecutor(3) as pool:
        for answer_NK, alone_NK in zip(pool.map(labeller, parts), alone, strict=True):
            np.testing.assert_array_equal(answer_NK, alone_NK)
