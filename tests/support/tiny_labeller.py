"""A labeller of a tiny network on the stand-in for a CUDA device, and what it has to answer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.runners.labeller import DTYPES, Labeller
from tests.support.tiny_network import TinyNetwork, tiny_state

BATCH = 8  # its graphs are of 8, 4 and 2 images
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (21, 299, 299, 3), np.uint8)
IMAGES.flags.writeable = False  # as batches from Ray are


def labeller(runner: str = "auto", precision: str = "fp16", state: dict[str, Tensor] | None = None) -> Labeller:
    return Labeller(state or tiny_state(), "cuda", precision, batch_size=BATCH, runner=runner)


def expected(image_NHWC: np.ndarray, precision: str = "fp16", state: dict[str, Tensor] | None = None) -> np.ndarray:
    with torch.inference_mode():
        return TinyNetwork(state or tiny_state(), DTYPES[precision], 5)(torch.tensor(image_NHWC)).numpy()


def assert_same(found_NK: np.ndarray, precision: str = "fp16", images: np.ndarray = IMAGES) -> None:
    assert found_NK.dtype == np.float32 and found_NK.shape == (len(images), 10 + 1536)
    np.testing.assert_allclose(found_NK, expected(images, precision), rtol=2e-3, atol=2e-3)
