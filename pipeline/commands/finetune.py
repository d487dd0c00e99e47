"""`label-images finetune`: a linear head for one's own classes, fitted on the embeddings of an output."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from pipeline.commands.extras import check_installed
from pipeline.commands.flags import NO_INPUT_FLAGS, AsTheRun, OptionalInput, Output, Truth, find_truth
from pipeline.config import Config, check_uri

if TYPE_CHECKING:
    from pipeline.training.finetune import Head


def finetune(
    *,
    output: Output,
    save: str,
    weights: str = Config.weights,
    truth: Truth = None,
    input: OptionalInput = None,
    holdout: Annotated[float, Interval(gt=0, lt=1)] = 0.2,
    reading: AsTheRun = NO_INPUT_FLAGS,
) -> int:
    """Fit a linear head for your own classes.

    The head is fitted on the embeddings of an output, and saved as weights and classes.

    ```
    label-images finetune --output tables/ --input photographs/ \\
      --truth folder --save own/
    label-images run --input photographs/ --output labels/ \\
      --weights own/weights.safetensors --classes own/classes.csv
    ```

    Takes minutes and no GPU: no image is read but for its truth. To train the layers below the head too, go on with
    label-images train --weights own/weights.safetensors --classes own/classes.csv.

    Exit status: 0 fitted, 1 the truth is of none of the images, 2 wrong usage.

    Args:
        save: Folder for weights.safetensors and classes.csv.
        weights: Those that labelled the tables.
        holdout: Share of the images, kept to judge the head by.
    """
    check_installed("finetune", duckdb="sql", sklearn="train")
    from pipeline.store.uris import canonical_uri
    from pipeline.trainer.saved import save_model
    from pipeline.training.claim import check_not_overwritten
    from pipeline.training.finetune import fit
    from pipeline.truth.sources import read_truth

    check_uri("save", save)
    folder = canonical_uri(save)
    check_not_overwritten(folder, weights)
    examples = find_truth(output, None, input, truth, reading)
    head = fit(output, weights, partial(read_truth, examples, for_fit=True, stream=sys.stderr), holdout)
    save_model(head.state, head.classes, folder)
    print_head(head, examples.where, folder)
    return 0


def print_head(head: Head, where: str, folder: str) -> None:
    """Print on what a head was fitted, how good it is, and how to label with it."""
    from pipeline.trainer.saved import CLASSES, WEIGHTS
    from pipeline.truth.coverage import describe_classes, describe_odd_names
    from pipeline.truth.holdout import share_interval

    first, *others = head.coverage.sentences()
    print(f"truth      {where}; {first}")
    for sentence in [*others, *describe_odd_names(head.num_of_class, where)]:
        print(f"note       {sentence}")
    print(f"classes    {describe_classes(head.num_of_class)}")
    print(f"fitted on  {head.num_fitted:,} images (regularisation C = {head.strength:g})")
    if head.top1 is None:
        print("held out   no image is held out: no accuracy")
    else:
        low, high = share_interval(head.top1, head.num_held_out)
        print(
            f"held out   {head.num_held_out:,} images: top-1 {head.top1:.2%} (95 %: {low:.1%} to {high:.1%}); "
            f"the most frequent class alone {head.chance:.2%}"
        )
    print(
        f"label      label-images run --weights {folder}/{WEIGHTS} --classes {folder}/{CLASSES} "
        "--input URI --output URI"
    )
