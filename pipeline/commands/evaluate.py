"""`label-images evaluate`: the tables of an output against the truth."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from pipeline.commands.extras import check_installed
from pipeline.commands.flags import NO_INPUT_FLAGS, AsTheRun, Model, OptionalInput, Output, Truth, find_truth
from pipeline.commands.json_summary import SummaryPlace, writing_summary

if TYPE_CHECKING:
    from pipeline.truth.evaluate import Evaluation

MAX_ROWS = 10  # classes and confusions that are printed


def evaluate(
    *,
    output: Output,
    truth: Truth = None,
    input: OptionalInput = None,
    model: Model = None,
    save: str | None = None,
    summary: SummaryPlace = None,
    reading: AsTheRun = NO_INPUT_FLAGS,
) -> int:
    """Judge the labels against the truth.

    The figures are top-1, top-5, calibration and confusions.

    ```
    label-images evaluate --output tables/ --truth truth.csv
    label-images evaluate --output tables/ --input shards/ --truth member:cls
    label-images evaluate --output tables/ --truth folder --save evaluation/
    ```

    Only the tables are read, and of --input what holds the truth (members, columns; a folder's name is in the tables):
    with RAY_ADDRESS on that cluster, else by the processors of this machine.
    Inception-v4 reaches 80.14 / 94.98 % top-1 / top-5 (timm, ImageNet-1k validation, 299 px, crop 0.875, bicubic). A
    rejected image is a wrong one.

    Exit status: 0 judged, 1 the truth is of none of the images, 2 wrong usage.

    Args:
        save: Folder for evaluation.json and for CSVs of all classes, confusions and bins.
    """
    check_installed("evaluate", duckdb="sql")
    from pipeline.truth import evaluate as judging
    from pipeline.truth.sources import read_truth

    with writing_summary(summary) as write:
        examples = find_truth(output, model, input, truth, reading)
        evaluation = judging.evaluate(output, model, partial(read_truth, examples, stream=sys.stderr))
        if save:
            judging.save_evaluation(evaluation, save)
        write(judging.list_figures(evaluation) | {"exit_code": 0})
        print_accuracies(evaluation, examples.where)
        print_classes(evaluation)
    return 0


def print_accuracies(evaluation: Evaluation, where: str) -> None:
    """Print what was judged, and the figures of all images together."""
    from pipeline.truth.coverage import describe_odd_names
    from pipeline.truth.evaluate import REFERENCE, REFERENCE_SET
    from pipeline.truth.holdout import share_interval

    first, *others = evaluation.coverage.sentences()
    print(f"model      {evaluation.model_id}")
    print(f"truth      {where}, by {evaluation.truth_by}; {first}")
    for sentence in [*others, *describe_odd_names(evaluation.coverage.by_class, where)]:
        print(f"note       {sentence}")
    if evaluation.num_foreign:
        print(
            f"note       {evaluation.num_foreign:,} truths are no class of the model, and count as wrong "
            f"(such as {evaluation.foreign_example})"
        )
    if evaluation.num_rejected:
        print(f"note       the {evaluation.num_rejected:,} rejected images that have a truth count as wrong")
    for name, share, reference in zip(("top-1", "top-5"), (evaluation.top1, evaluation.top5), REFERENCE, strict=True):
        low, high = share_interval(share, evaluation.num_images)
        print(
            f"{name}      {share:7.2%} of {evaluation.num_images:,} (95 %: {low:.1%} to {high:.1%})"
            f"{f'   reference {reference:.2%} ({REFERENCE_SET})' if evaluation.imagenet_1k else ''}"
        )
    print(
        f"ECE        {evaluation.ece:7.2%}   (confidence and accuracy apart, over {len(evaluation.calibration)} bins)"
    )


def print_classes(evaluation: Evaluation) -> None:
    """Print the worst classes, and the most frequent confusions."""
    present = [row for row in evaluation.by_class.to_pylist() if row["images"]]
    print(f"classes    {len(present):,} of {len(evaluation.by_class):,} occur; the worst:")
    for row in sorted(present, key=lambda row: (row["top1"], -row["images"]))[:MAX_ROWS]:
        print(f"  {row['label']:30} top-1 {row['top1']:7.2%}  top-5 {row['top5']:7.2%}  of {row['images']:,}")
    print(f"confusions {sum(evaluation.confusions['images'].to_pylist()):,} images; the most frequent:")
    for row in evaluation.confusions.slice(0, MAX_ROWS).to_pylist():
        print(f"  {row['label'] or row['label_id']} taken for {row['said']}: {row['images']:,}")
    if evaluation.finding:
        print(f"FAULT      {evaluation.finding}")
