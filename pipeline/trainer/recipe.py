"""How a network is trained: the paper's recipe, as timm and TF-slim write it down, and within which bounds it may be changed.

RMSProp as TensorFlow has it (decay 0.9, momentum 0.9, epsilon 1.0), learning rate 0.045, times 0.94 every two epochs,
gradients clipped at norm 2: Szegedy et al. 2016, arXiv 1602.07261, section 4, and 1512.00567, section 8. Label smoothing
0.1: 1512.00567, section 7. Dropout keeps 0.8, crops of 8 to 100 % of the area: 1602.07261 and 1409.4842. Weight decay 4e-5:
TF-slim's `inception_v4_arg_scope`.
Not here: what is made of it (`trained.py`). torch is not imported: a number out of bounds is told before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import inf

from pipeline.config import flag
from pipeline.errors import UserError

SMALLEST = 75  # pixels: of less, the network's last block has nothing left
LARGEST = 2048  # pixels: a crop of more is larger than most photographs, and its batch than a GPU
MANY = 10**6  # epochs
LEAST_IMAGES = 2  # of a worker's batch: BatchNorm has no variance of one

_POSITIVE: tuple[str, Callable[[float], bool]] = ("more than 0", lambda value: value > 0)
_SHARE: tuple[str, Callable[[float], bool]] = ("from 0 to less than 1", lambda value: 0 <= value < 1)
BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "epochs": (f"from 1 to {MANY:,}", lambda value: 1 <= value <= MANY),
    "batch_size": (f"at least {LEAST_IMAGES}, for BatchNorm", lambda value: value >= LEAST_IMAGES),
    "image_size": (f"from {SMALLEST} to {LARGEST:,}; the network needs at least {SMALLEST} pixels", lambda value: SMALLEST <= value <= LARGEST),
    "learning_rate": _POSITIVE,
    "decay_rate": ("more than 0 and at most 1", lambda value: 0 < value <= 1),
    "decay_epochs": _POSITIVE,
    "warmup_epochs": (f"from 0 to {MANY:,}", lambda value: 0 <= value <= MANY),
    "weight_decay": ("at least 0", lambda value: value >= 0),
    "label_smoothing": _SHARE,
    "dropout": _SHARE,
    "clip_norm": _POSITIVE,
    "ema_decay": _SHARE,
    "seed": ("from 0 to 2^32 - 1", lambda value: 0 <= value < 2**32),
}


@dataclass(frozen=True)
class Recipe:
    """What decides how training goes. `batch_size`: images a step, of all workers together.

    `image_size`: pixels, of crops and of validation. `precision`: `fp32`, `bf16` or `fp16` (autocast; weights are float32).

    Raises:
        UserError: a number out of `BOUNDS`; the sentence names its flag.
    """

    epochs: int = 100
    batch_size: int = 32
    image_size: int = 299  # as `inception_v4.INPUT_SIZE`
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

    def __post_init__(self) -> None:
        for field in fields(self):
            words, fits = BOUNDS.get(field.name, ("", lambda _: True))
            value = getattr(self, field.name)
            if words and not (-inf < value < inf and fits(value)):
                raise UserError(f"{flag(field.name)} is {value}; it is a number {words}.")


def check_workers(recipe: Recipe, num_workers: int) -> None:
    """Raise UserError unless so many workers can share a batch."""
    if num_workers < 1:
        raise UserError(f"--workers is {num_workers}; it is a number at least 1.")
    if recipe.batch_size % num_workers:
        raise UserError(f"--batch-size {recipe.batch_size} cannot be shared by {num_workers} workers: take a multiple.")
    if recipe.batch_size // num_workers < LEAST_IMAGES:
        raise UserError(f"--batch-size {recipe.batch_size} leaves each of {num_workers} workers {recipe.batch_size // num_workers}: "
                        f"BatchNorm needs at least {LEAST_IMAGES}, so take at least {LEAST_IMAGES * num_workers}, or fewer --workers.")
