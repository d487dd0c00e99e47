"""The head of the weights that a training begins with: kept where its classes are the same, otherwise made anew.

In: which weights, and how many outputs they have; the classes that are trained. Out: a decision, and why, in a line.
The classes of a file are those of the `classes.csv` beside it, as finetuning and training save it; else, of 1000 outputs, ImageNet-1k's.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.classes import MAX_CLASSES, load_classes
from pipeline.model.weights import Weights
from pipeline.store import storage
from pipeline.trainer.saved import CLASSES
from pipeline.truth.class_ids import BACKGROUND

IMAGENET = 1000  # classes of `pretrained` and `seed:N`


class Head(NamedTuple):
    """Whether the head is kept, and why, in a sentence without a full stop."""

    kept: bool
    why: str


def choose_head(start: Weights, classes: pa.Table) -> Head:
    """Whether to keep the head of the weights, which are read for it.

    Raises:
        UserError: the weights cannot be read or are of another network; or they have another number of outputs than their own
            classes, which are to be trained.
    """
    num_outputs = IMAGENET if start.meaningless else len(weights.load(start)["last_linear.weight"])
    known, source = _classes_of(start, num_outputs)
    if known is None and num_outputs == len(classes):
        return Head(True, f"kept: --weights has {num_outputs:,} outputs, as many as there are classes; no {CLASSES} beside it says of which, "
                          "so their order must be the same")
    if known is None:
        return Head(False, f"made anew: --weights has {num_outputs:,} outputs, and there are {len(classes):,} classes")
    if _named(known) != _named(classes):
        return Head(False, f"made anew: its {len(known):,} classes ({source}) are not the {len(classes):,} that are trained, in this order")
    if num_outputs != len(classes):
        raise UserError(f"--weights {start.spec} has {num_outputs:,} outputs, and the {source} names {len(known):,} classes, those that are "
                        "trained; they must be of the same network: name the weights that it belongs to, or move it.")
    return Head(True, f"kept: its {len(known):,} classes ({source}) are those that are trained")


def check_number(classes: pa.Table, path: str) -> None:
    """Raise UserError if a CSV of classes has fewer than a network is trained on, or as many as weights cannot have."""
    if len(classes) < 2:
        raise UserError(f"--classes {path} has {len(classes)} class; a network is trained on 2 to {MAX_CLASSES:,}.")
    if len(classes) == BACKGROUND:
        raise UserError(f"--classes {path} has {BACKGROUND:,} classes, and weights of so many are taken for Google's, whose first is "
                        "dropped: leave one out.")


def _classes_of(start: Weights, num_outputs: int) -> tuple[pa.Table | None, str]:
    """The classes of the weights, and where they are from; None if nothing says."""
    if start.spec == "pretrained" or start.meaningless:
        return load_classes(), "ImageNet-1k's"
    beside = storage.join(start.spec.rpartition("/")[0], CLASSES)
    with suppress(UserError):  # none there, or none of ours
        return load_classes(beside), f"{CLASSES} beside it"
    return (load_classes(), "ImageNet-1k's") if num_outputs == IMAGENET else (None, "")


def _named(classes: pa.Table) -> list[tuple[str | None, str]]:
    return [(row["wnid"], row["label"].strip()) for row in classes.to_pylist()]
