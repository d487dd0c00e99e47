"""The network that is trained is the one that labels, and its learning rate follows the recipe."""

import pytest
import torch

from pipeline.model.inception_v4 import InceptionV4
from pipeline.trainer.network import make_network, make_optimizer
from pipeline.trainer.recipe import Recipe
from tests.support.jobs import load_seed


def test_the_schedule_and_what_decays():
    recipe = Recipe(warmup_epochs=0)
    optimizer, schedule = make_optimizer(recipe, make_network(recipe, 4, None))
    seen = []
    for epoch in range(6):
        schedule.step(epoch)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.045, 0.045, 0.045 * 0.94, 0.045 * 0.94, 0.045 * 0.94**2, 0.045 * 0.94**2])
    decays = {group["weight_decay"]: sum(tensor.ndim == 1 for tensor in group["params"])
              for group in optimizer.param_groups}
    assert (
        decays[4e-5] == 0 and decays[0.0] == 2 * 149 + 1
    )  # a weight and a bias of each BatchNorm, and the head's bias
    assert (optimizer.param_groups[0]["eps"], optimizer.param_groups[0]["alpha"],
            optimizer.param_groups[0]["momentum"]) == (
        1.0, 0.9, 0.9)


def test_the_network_that_is_trained_is_the_one_that_labels():
    state = load_seed()
    trained, labels = make_network(Recipe(), 1000, state, keep_head=True).eval(), InceptionV4().eval()
    labels.load_state_dict(state, strict=False)
    image_NCHW = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(trained(image_NCHW), labels(image_NCHW)[1], atol=1e-4)
    other = make_network(Recipe(), 4, state)
    assert other.last_linear.weight.shape == (4, 1536)
    assert torch.equal(other.features[0].conv.weight, state["features.0.conv.weight"])
