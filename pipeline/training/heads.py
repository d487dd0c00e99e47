"""The head of the weights with which a training begins: it is kept if its classes are the same, otherwise made anew.

In: the weights, and the classes of the training. Out: a decision, with the reason in a line.
The classes of a weights file are those of the `classes.csv` beside it, which fine-tuning and training save. Without
that file, a head of 1000 outputs has the classes of ImageNet-1k.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.classes import MAX_CLASSES, load_classes
from pipeline.model.spec import NUM_IMAGENET_CLASSES, NUM_WITH_BACKGROUND
from pipeline.model.weights import Weights
from pipeline.store import storage
from pipeline.trainer.saved import CLASSES


class HeadChoice(NamedTuple):
    """Whether the head is kept, and the reason, in a sentence without a full stop."""

    is_kept: bool
    reason: str


def choose_head(start: Weights, classes: pa.Table) -> HeadChoice:
    """Decide whether to keep the head of the weights. A weights file is read for that.

    Raises:
        UserError: the weights cannot be read or are of another network; or their number of outputs differs from the
            number of their own classes, and these are the classes of the training.
    """
    num_outputs = NUM_IMAGENET_CLASSES if start.meaningless else len(weights.load(start)["last_linear.weight"])
    known, source = _load_classes_of(start, num_outputs)
    if known is None and num_outputs == len(classes):
        return HeadChoice(True, f"kept: --weights has {num_outputs:,} outputs, as many as there are classes; no "
                                f"{CLASSES} beside it says of which, so their order must be the same")
    if known is None:
        return HeadChoice(False, f"made anew: --weights has {num_outputs:,} outputs, and there are {len(classes):,} "
                                 "classes")
    if _names(known) != _names(classes):
        return HeadChoice(False, f"made anew: its {len(known):,} classes ({source}) are not the {len(classes):,} that "
                                 "are trained, in this order")
    if num_outputs != len(classes):
        raise UserError(f"--weights {start.spec} has {num_outputs:,} outputs, and the {source} names {len(known):,} "
                        "classes, those that are trained; they must be of the same network: name the weights that it "
                        "belongs to, or move it.")
    return HeadChoice(True, f"kept: its {len(known):,} classes ({source}) are those that are trained")


def check_num_classes(classes: pa.Table, path: str) -> None:
    """Raise UserError if a CSV of classes has less than two classes, or 1001, which weights cannot have."""
    if len(classes) < 2:
        raise UserError(f"--classes {path} has {len(classes)} class; a network is trained on 2 to {MAX_CLASSES:,}.")
    if len(classes) == NUM_WITH_BACKGROUND:
        raise UserError(f"--classes {path} has {NUM_WITH_BACKGROUND:,} classes, and weights of so many are taken for "
                        "Google's, whose first is dropped: leave one out.")


def _load_classes_of(start: Weights, num_outputs: int) -> tuple[pa.Table | None, str]:
    """The classes of the weights, and their source; None and "" if they are not known."""
    if start.spec == "pretrained" or start.meaningless:
        return load_classes(), "ImageNet-1k's"
    beside = storage.join(start.spec.rpartition("/")[0], CLASSES)
    with suppress(UserError):  # there is no such file, or it is of another tool
        return load_classes(beside), f"{CLASSES} beside it"
    return (load_classes(), "ImageNet-1k's") if num_outputs == NUM_IMAGENET_CLASSES else (None, "")


def _names(classes: pa.Table) -> list[tuple[str | None, str]]:
    """Wnid and label of each class."""
    return [(row["wnid"], row["label"].strip()) for row in classes.to_pylist()]
