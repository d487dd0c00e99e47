"""How a network is trained: the paper's recipe, as timm and TF-slim write it down, and the bounds of its numbers.

RMSProp as TensorFlow has it (decay 0.9, momentum 0.9, epsilon 1.0), learning rate 0.045, times 0.94 every two epochs,
gradients clipped at norm 2: Szegedy et al. 2016, arXiv 1602.07261, section 4, and 1512.00567, section 8. Label
smoothing 0.1: 1512.00567, section 7. Dropout keeps 0.8, crops of 8 to 100 % of the area: 1602.07261 and 1409.4842.
Weight decay 4e-5: TF-slim's `inception_v4_arg_scope`. Not here: the optimizer and the schedule that follow from the
recipe (`network.py`). torch is not imported, so that a number out of bounds is refused at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Interval

from pipeline.config import FieldError, Precision, check_values
from pipeline.errors import UserError
from pipeline.model.spec import INPUT_SIZE

MIN_IMAGE_SIZE = 75  # pixels: of fewer, the network's last block has nothing left
MAX_IMAGE_SIZE = 2048  # pixels: a larger crop is larger than most photographs, and its batch than a GPU
MAX_EPOCHS = 10**6
MIN_WORKER_BATCH = 2  # images of a worker's batch: BatchNorm has no variance of one image

Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides how training goes.

    Raises:
        UserError: a number out of its bounds; the sentence names its flag.
    """

    epochs: Annotated[int, Interval(ge=1, le=MAX_EPOCHS)] = 100
    """Times over all images."""
    batch_size: Annotated[int, Ge(MIN_WORKER_BATCH)] = 32
    """Images a step, of all workers together; at least 2 for each worker, for BatchNorm."""
    image_size: Annotated[int, Interval(ge=MIN_IMAGE_SIZE, le=MAX_IMAGE_SIZE)] = INPUT_SIZE
    """Pixels, of crops and of validation. The network needs at least 75."""
    learning_rate: Positive = 0.045
    """At the start."""
    decay_rate: Annotated[float, Interval(gt=0, le=1)] = 0.94
    """The learning rate is multiplied by this number."""
    decay_epochs: Positive = 2.0
    """Epochs between two such multiplications."""
    warmup_epochs: Annotated[int, Interval(ge=0, le=MAX_EPOCHS)] = 0
    """Epochs in which the learning rate rises."""
    weight_decay: Annotated[float, Ge(0)] = 4e-5
    """Not of biases and BatchNorm."""
    label_smoothing: Share = 0.1
    """Share of the truth given to all classes."""
    dropout: Share = 0.2
    """Before the head."""
    clip_norm: Positive = 2.0
    """Largest norm of the gradients."""
    ema_decay: Share = 0.9999
    """Decay of the moving average of the weights."""
    augment: bool = True
    """Random crops, flips and colours."""
    precision: Precision = "auto"
    """Of the network's arithmetic; weights are float32. auto takes half precision where the device is fast at it."""
    seed: Annotated[int, Interval(ge=0, lt=2**32)] = 0
    """Of the first weights and of the order of shards."""

    def __post_init__(self) -> None:
        check_values(type(self), vars(self))


def check_workers(recipe: Recipe, num_workers: int) -> None:
    """Raise UserError unless so many workers can share a batch."""
    if num_workers < 1:
        raise FieldError("workers", f"is {num_workers}; it must be at least 1.")
    if recipe.batch_size % num_workers:
        raise UserError(f"--batch-size {recipe.batch_size} cannot be shared by {num_workers} workers: take a multiple.")
    worker_batch, smallest = recipe.batch_size // num_workers, MIN_WORKER_BATCH * num_workers
    if worker_batch < MIN_WORKER_BATCH:
        raise UserError(
            f"--batch-size {recipe.batch_size} leaves each of {num_workers} workers {worker_batch}: "
            f"BatchNorm needs at least {MIN_WORKER_BATCH}, so take at least {smallest}, or fewer --workers."
        )
