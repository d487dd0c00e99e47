"""`label-images train`: train the whole network, on one worker or several."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval
from cyclopts import Group, Parameter

from pipeline.commands.extras import check_installed
from pipeline.commands.flags import NO_INPUT_FLAGS, AsRunHasThem, Flat, Input, InputFlags, Truth, choose_inputs
from pipeline.config import Count, check_uri, check_values
from pipeline.errors import UserError
from pipeline.stop import Stop, Stopped
from pipeline.trainer.recipe import Recipe, check_workers

if TYPE_CHECKING:
    from pipeline.truth.sources import Examples

PAPERS_RECIPE = Recipe()
RecipeFlags = Annotated[Recipe, Parameter(name="*", group=Group("Recipe", sort_key=2))]


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """What a training learns from, what it begins with, and where its results go.

    Raises:
        UserError: a value that does not fit; the sentence names its flag.
    """

    input: Input
    save: str
    """Folder for weights, classes, curves and state."""
    truth: Truth = None
    validation: str | None = None
    """Shards to judge by (default: a part of --input)."""
    validation_truth: str | None = None
    """Where the classes of --validation are (default: as --truth)."""
    holdout: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    """Share of the images of --input to judge by, without --validation."""
    classes: str | None = None
    """CSV of label_id,wnid,label (default: those that the truth names)."""
    weights: str | None = None
    """Weights to begin with, as label-images run takes them (default: from scratch). The head is kept where its
    classes, those of classes.csv beside the file or ImageNet-1k's, are the same. Else a new head is made."""
    workers: Count | None = None
    """Workers that train together (default: one for each GPU, or one)."""
    lease: bool = True
    """Refuse to train while another training writes to --save."""

    def __post_init__(self) -> None:
        check_values(type(self), vars(self))
        for name in ("input", "truth", "validation", "validation_truth", "classes", "weights", "save"):
            check_uri(name, getattr(self, name))
        if self.validation_truth is not None and self.validation is None:
            raise UserError("--validation-truth is of --validation, which is not given.")


def train(flags: Flat[TrainFlags], recipe: RecipeFlags = PAPERS_RECIPE, reading: AsRunHasThem = NO_INPUT_FLAGS) -> int:
    """Train the network, from scratch or from weights.

    Inception-v4 learns from labelled shards, on one worker or several.

    ```
    label-images train --input shards/ --truth member:cls --save model/
    label-images train --input photographs/ --truth folder --save model/ \\
      --weights own/weights.safetensors --classes own/classes.csv
    ray job submit --working-dir . -- jobs/train.py \\
      --input URI --truth WHERE --validation URI --save URI --workers 8
    ```

    The defaults are the paper's recipe (arXiv 1602.07261), for ImageNet. The folder --save gets weights.safetensors
    and classes.csv, which label-images run takes, and the curves, after every epoch. The same command goes on after a
    kill, at the last epoch that was finished. Weights are the moving average over the steps.

    Exit status: 0 trained, 1 training failed, 2 wrong usage, 4 another training writes to --save.
    """
    if flags.workers is not None:
        check_workers(recipe, flags.workers)
    check_installed("train", timm="train")
    stop = Stop()
    with stop.listening():
        from pipeline.training.train import train as begin_training

        try:
            examples, validation = find_examples(flags, reading)
            figures = begin_training(
                examples,
                validation,
                flags.holdout,
                recipe,
                flags.weights,
                flags.classes,
                flags.save,
                flags.workers,
                sys.stderr,
                stop,
                flags.lease,
            )
        except Stopped as stopped:
            print(f"{stopped}; the same command goes on at the last epoch that was finished", file=sys.stderr)
            stop.leave()
    print_figures(figures, flags.save)
    return 0


def find_examples(flags: TrainFlags, reading: InputFlags) -> tuple[Examples, Examples | None]:
    """The images to train on, and those to judge by if they are apart; with the places of their truth."""
    from pipeline.truth.sources import Examples, guess_where

    inputs, format = choose_inputs(reading, {})
    where = flags.truth if flags.truth is not None else guess_where(flags.input, inputs, format)
    validation = None
    if flags.validation is not None:
        validation = Examples(flags.validation, flags.validation_truth or where, inputs, format)
    return Examples(flags.input, where, inputs, format), validation


def print_figures(figures: Mapping[str, float], folder: str) -> None:
    """Print how far a training came, how good the network is, and how to label with it."""
    print(f"trained    {figures['epoch']:,.0f} epochs, {figures['step']:,.0f} steps; loss {figures['loss']:.4f}")
    number = int(figures["valid_images"])
    accuracies = (
        [f"{name} {format_share(figures[key], number)}" for key, name in (("top1", "top-1"), ("top5", "top-5"))]
        if number
        else []
    )
    print(
        f"held out   {number:,} images: {', '.join(accuracies)}"
        if number
        else "held out   no image is held out: no accuracy"
    )
    print(f"label      label-images run --weights {folder}/weights.safetensors --classes {folder}/classes.csv")


def format_share(share: float, number: int) -> str:
    """A share of so many images with its 95 % interval: `75.00 % (95 %: 30.1 to 95.4 %)`."""
    from pipeline.truth.holdout import share_interval

    low, high = share_interval(share, number)
    return f"{100 * share:.2f} % (95 %: {100 * low:.1f} to {100 * high:.1f} %)"
