"""The device, the weights, the images and timm's answers that the tests of the runners share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from pipeline.runners import on_cuda, probe
from tests.support.cuda_stand_in import StandIn, install
from tests.support.timm_network import NUM_CLASSES, timms_answers
from tests.support.tiny_network import TinyNetwork


@pytest.fixture(params=["late", "early"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A device whose work happens as late as it may, or at once; networks are tiny."""
    stand_in = install(monkeypatch, request.param == "late")
    monkeypatch.setattr(probe, "UintNetwork", TinyNetwork)
    monkeypatch.setattr(on_cuda, "ACTIVATION_BYTES", 2**10)
    monkeypatch.setattr(on_cuda, "LARGEST_MAP", 2**11)
    return stand_in


@pytest.fixture(scope="module")
def theirs() -> Any:
    """timm's network, Kaiming-normal, with BatchNorms as training leaves them: none of them does nothing."""
    torch.manual_seed(0)
    network = timm.create_model("inception_v4", num_classes=NUM_CLASSES).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.7, 1.4)
            nn.init.normal_(layer.bias, std=0.2)
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def state(theirs: Any) -> dict[str, Tensor]:
    return theirs.state_dict()


@pytest.fixture(scope="module")
def image_NHWC() -> np.ndarray:
    """Crops of two photographs, and noise: uint8 [6, 299, 299, 3]. Read-only, as batches from Ray are."""
    from sklearn.datasets import load_sample_images
    crops = [photo[top:top + 299, left:left + 299] for photo in load_sample_images().images
             for top, left in ((0, 0), (100, 300))]
    noise = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3), np.uint8)
    images = np.stack([*crops, *noise])
    images.flags.writeable = False
    return images


@pytest.fixture(scope="module")
def expected(theirs: Any, image_NHWC: np.ndarray) -> tuple[Tensor, Tensor]:
    """timm's embeddings and logits in float32."""
    return timms_answers(theirs, image_NHWC)
