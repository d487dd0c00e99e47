"""The network in the form in which it is trained; the optimizer, the schedule and the precision of a recipe.

The optimizer and the schedule are timm's.
Not here: the numbers of the recipe and their origin (`recipe.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.optim import RMSpropTF, param_groups_weight_decay  # type: ignore[attr-defined]
from timm.scheduler import StepLRScheduler  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn import functional

from pipeline.model.inception_v4 import InceptionV4
from pipeline.runners.precision import resolve_precision
from pipeline.trainer.recipe import Recipe


class TrainedNetwork(InceptionV4):
    """`InceptionV4` whose forward gives logits only. In training there is dropout before the head."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__(num_classes)
        self.dropout = dropout

    def forward(self, image_NCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Normalised images [N, 3, S, S] -> logits [N, num_classes]."""
        embedding_ND = self.forward_features(image_NCHW).mean((2, 3))
        logit_NK: Tensor = self.last_linear(functional.dropout(embedding_ND, self.dropout, self.training))
        return logit_NK


def make_network(recipe: Recipe, num_classes: int, state: Mapping[str, Tensor] | None,
                 keep_head: bool = False) -> TrainedNetwork:
    """The network with which a training begins.

    Args:
        state: its weights; None: torch's initialisation by the seed of the recipe.
        keep_head: take the head of `state` too. That head must have `num_classes` outputs; see `training/heads.py`.
    """
    torch.manual_seed(recipe.seed)
    network = TrainedNetwork(num_classes, recipe.dropout).to(memory_format=torch.channels_last)
    if state is not None:
        network.load_state_dict({name: tensor for name, tensor in state.items()
                                 if keep_head or not name.startswith("last_linear")}, strict=False)
    return network


def make_optimizer(recipe: Recipe, network: nn.Module) -> tuple[RMSpropTF, StepLRScheduler]:
    """The optimizer, which decays neither bias nor BatchNorm; and its schedule, whose step takes the epoch's number."""
    groups = param_groups_weight_decay(network, recipe.weight_decay)
    optimizer = RMSpropTF(groups, lr=recipe.learning_rate, alpha=0.9, momentum=0.9, eps=1.0)
    schedule = StepLRScheduler(optimizer, decay_t=recipe.decay_epochs, decay_rate=recipe.decay_rate,
                               warmup_t=recipe.warmup_epochs, warmup_lr_init=recipe.learning_rate / 100)
    return optimizer, schedule


def training_precision(name: str, device: str) -> str:
    """`fp32`, `bf16` or `fp16`, for one of these or `auto`, on device `cuda` or `cpu`.

    `auto` is bf16 if the device computes in it. Otherwise it is fp16 with a scaled loss on CUDA, and fp32 on a CPU.

    Raises:
        UserError: the device does not compute in this precision.
    """
    if name == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if has_bf16 else resolve_precision("auto", device)
    return resolve_precision(name, device)
