"""The task of a training worker, and its progress. The progress is a part of the saved state.

Not here: the training itself (`loop.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.model.weights import Weights
from pipeline.trainer.curves import LossCurve
from pipeline.trainer.recipe import Recipe


@dataclass
class Job:
    """The task of a worker.

    Attributes:
        start: the weights with which the training begins; None: from scratch.
        keep_head: whether the head of these weights is kept.
        folder: for the results.
        num_threads: of torch.
        messages: a queue for lines of progress.
        begun_s: the start of the job, in seconds since 1970.
    """

    recipe: Recipe
    classes: pa.Table
    start: Weights | None
    keep_head: bool
    folder: str
    num_threads: int
    messages: Any
    begun_s: float


@dataclass
class TrainingProgress:
    """How far a training has come.

    Attributes:
        epoch, step: the number of finished epochs and steps.
        losses: of the steps, over all workers.
        epochs: the figures of each epoch.
    """

    epoch: int = 0
    step: int = 0
    losses: LossCurve = field(default_factory=LossCurve)
    epochs: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, saved: dict[str, Any]) -> TrainingProgress:
        """The progress of which `dataclasses.asdict` made this."""
        return cls(**saved | {"losses": LossCurve(**saved["losses"])})
