"""How a network is trained: the paper's recipe, as timm and TF-slim write it down; and the network's training form.

RMSProp as TensorFlow has it (decay 0.9, momentum 0.9, epsilon 1.0), learning rate 0.045, times 0.94 every two epochs,
gradients clipped at norm 2: Szegedy et al. 2016, arXiv 1602.07261, section 4, and 1512.00567, section 8. Label smoothing
0.1: 1512.00567, section 7. Dropout keeps 0.8, crops of 8 to 100 % of the area: 1602.07261 and 1409.4842. Weight decay 4e-5:
TF-slim's `inception_v4_arg_scope`. The optimizer, the schedule and the moving average are timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from timm.optim import RMSpropTF, param_groups_weight_decay
from timm.scheduler import StepLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from pipeline.inception_v4 import INPUT_SIZE, InceptionV4
from pipeline.precision import resolve_precision

SMALLEST = 75  # pixels: of less, the network's last block has nothing left


@dataclass(frozen=True)
class Recipe:
    """What decides how training goes. `batch_size`: images a step, of all workers together.

    `image_size`: pixels, of crops and of validation. `precision`: `fp32`, `bf16` or `fp16` (autocast; weights are float32).
    """

    epochs: int = 100
    batch_size: int = 32
    image_size: int = INPUT_SIZE
    learning_rate: float = 0.045
    decay_rate: float = 0.94
    decay_epochs: float = 2.0
    warmup_epochs: int = 0
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    dropout: float = 0.2
    clip_norm: float = 2.0
    ema_decay: float = 0.9999
    augment: bool = True
    precision: str = "fp32"
    seed: int = 0


class TrainedNetwork(InceptionV4):
    """`InceptionV4` whose forward gives logits alone, with dropout before the head while it trains."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        super().__init__(num_classes)
        self.dropout = dropout

    def forward(self, image_NCHW: Tensor) -> Tensor:  # type: ignore[override]
        """Normalised images [N, 3, S, S] -> logits [N, num_classes]."""
        embedding_ND = self.forward_features(image_NCHW).mean((2, 3))
        return self.last_linear(functional.dropout(embedding_ND, self.dropout, self.training))


def make_network(recipe: Recipe, num_classes: int, state: Mapping[str, Tensor] | None) -> TrainedNetwork:
    """The network to begin with: `state`, or without one torch's initialisation by the recipe's seed.

    A state of other classes keeps all but its head.
    """
    torch.manual_seed(recipe.seed)
    network = TrainedNetwork(num_classes, recipe.dropout).to(memory_format=torch.channels_last)
    if state is not None:
        same_head = len(state["last_linear.weight"]) == num_classes
        network.load_state_dict({name: tensor for name, tensor in state.items()
                                 if same_head or not name.startswith("last_linear")}, strict=False)
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
