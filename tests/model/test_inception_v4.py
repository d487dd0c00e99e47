"""The network against timm's, and against its published size."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.model import spec
from pipeline.model.inception_v4 import InceptionV4


@pytest.fixture(scope="module")
def theirs() -> Any:
    """timm's network with BatchNorms as training leaves them: none of them does nothing."""
    torch.manual_seed(0)
    network = timm.create_model("inception_v4").eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.2)
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.01, 1.5)
    return network


def test_same_answers_as_timm_from_the_same_weights(theirs: Any) -> None:
    ours = InceptionV4().eval()
    ours.load_state_dict(theirs.state_dict())  # strict: every name is theirs
    image_NCHW = torch.rand(2, 3, 299, 299) * 2 - 1
    with torch.inference_mode():
        embedding_ND, logits_NC = ours(image_NCHW)
        features_NCHW = theirs.forward_features(image_NCHW)
        torch.testing.assert_close(embedding_ND, theirs.forward_head(features_NCHW, pre_logits=True),
                                   rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits_NC, theirs.forward_head(features_NCHW), rtol=1e-4, atol=1e-5)
        assert ours.forward_features(image_NCHW).shape == (2, 1536, 8, 8)


def test_size() -> None:
    network = InceptionV4().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 42_679_816
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, 299, 299))
    assert counter.get_total_flops() / 2e9 == pytest.approx(12.25, abs=0.01)  # two FLOP a multiply-add


def test_other_numbers_of_classes() -> None:
    with torch.device("meta"):
        embedding_ND, logits_NC = InceptionV4(10)(torch.empty(3, 3, 299, 299))
    assert (embedding_ND.shape, logits_NC.shape) == ((3, 1536), (3, 10))


def test_preprocessing_constants_are_those_of_timms_weights(theirs: Any) -> None:
    config = theirs.default_cfg
    assert config["input_size"] == (3, spec.INPUT_SIZE, spec.INPUT_SIZE)
    assert config["crop_pct"] == spec.CROP
    assert config["interpolation"] == spec.INTERPOLATION
    assert config["mean"] == (spec.MEAN,) * 3 and config["std"] == (spec.STD,) * 3
    assert spec.RESIZE_SIDE == 341
