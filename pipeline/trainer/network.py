"""The network as it is trained, and what its recipe makes: optimizer, schedule, precision.

The optimizer, the schedule and the moving average are timm's.
Not here: the numbers of the recipe, and where they are from (`recipe.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.optim import RMSpropTF, param_groups_weight_decay
from timm.scheduler import StepLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from pipeline.model.inception_v4 import InceptionV4
from pipeline.runners.precision import resolve_precision
from pipeline.trainer.recipe import Recipe


class TrainedNetwork(InceptionV4):
    """`InceptionV4` whose forward gives logits alone, with dropout before the head while it trains."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__(num_classes)
        self.dropout = dropout

    def forward(self, image_NCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Normalised images [N, 3, S, S] -> logits [N, num_classes]."""
        embedding_ND = self.forward_features(image_NCHW).mean((2, 3))
        return self.last_linear(functional.dropout(embedding_ND, self.dropout, self.training))


def make_network(recipe: Recipe, num_classes: int, state: Mapping[str, Tensor] | None, keep_head: bool = False) -> TrainedNetwork:
    """The network to begin with: `state`, or without one torch's initialisation by the recipe's seed.

    `keep_head`: whether the head is the state's too, which must be of as many classes; see `heads.py`.
    """
    torch.manual_seed(recipe.seed)
    network = TrainedNetwork(num_classes, recipe.dropout).to(memory_format=torch.channels_last)
    if state is not None:
        network.load_state_dict({name: tensor for name, tensor in state.items()
                                 if keep_head or not name.startswith("last_linear")}, strict=False)
    return network


def make_optimizer(recipe: Recipe, network: nn.Module) -> tuple[RMSpropTF, StepLRScheduler]:
    """The optimizer, which decays no bias and no BatchNorm, and its schedule, which is stepped with the epoch's number."""
    groups = param_groups_weight_decay(network, recipe.weight_decay)
    optimizer = RMSpropTF(groups, lr=recipe.learning_rate, alpha=0.9, momentum=0.9, eps=1.0)
    schedule = StepLRScheduler(optimizer, decay_t=recipe.decay_epochs, decay_rate=recipe.decay_rate,
                               warmup_t=recipe.warmup_epochs, warmup_lr_init=recipe.learning_rate / 100)
    return optimizer, schedule


def training_precision(name: str, device: str) -> str:
    """`fp32`, `bf16` or `fp16`, for one of these or `auto`, which is bf16 where device `cuda` or `cpu` computes in it.

    Else, on CUDA, fp16 with the loss scaled; on a CPU fp32.

    Raises:
        UserError: a precision the device does not compute in.
    """
    if name == "auto":
        return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else (
            resolve_precision("auto", device))
    return resolve_precision(name, device)
