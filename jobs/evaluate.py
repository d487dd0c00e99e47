#!/usr/bin/env python3
"""How good the labels are: top-1, top-5, calibration and confusions of an output's tables against the truth.

  jobs/evaluate.py --output tables/ --truth truth.csv
  jobs/evaluate.py --output tables/ --input shards/ --truth member:cls
  jobs/evaluate.py --output tables/ --input photographs/ --truth folder --save evaluation/

Only the tables are read, and of --input what holds the truth (members, columns; a folder's name is in the tables). Inception-v4 reaches
80.14 / 94.98 % top-1 / top-5 (timm, ImageNet-1k validation, 299 px, crop 0.875, bicubic). A rejected image is a wrong one.
Exit status: 0 judged, 1 the truth is of none of the images, 2 wrong usage.
"""

import argparse
import sys
from functools import partial

from pipeline.errors import UserError
from pipeline.inputs.find import add_flags, choose_inputs
from pipeline.tables.history import read_settings
from pipeline.truth import sources
from pipeline.truth.holdout import wilson_interval

try:
    from pipeline.truth.coverage import describe_odd_names
    from pipeline.truth.evaluate import REFERENCE, REFERENCE_SET, Evaluation, evaluate, save_evaluation
except ImportError as error:
    sys.exit(f"error: jobs/evaluate.py needs DuckDB: pip install -c constraints.txt '.[sql]' ({error})")

SHOWN = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="URI", help="the tables, as given to jobs/label.py")
    parser.add_argument("--truth", metavar="WHERE", help=f"{sources.HELP}; default: what --input seems to have")
    parser.add_argument("--input", metavar="URI", help="the shards, as given to jobs/label.py")
    parser.add_argument("--model", metavar="MODEL_ID", help="which model's tables, if there are several")
    parser.add_argument("--save", metavar="URI", help="folder for evaluation.json and for CSVs of all classes, confusions "
                                                      "and bins")
    add_flags(parser)
    options = parser.parse_args()
    if not options.truth and not options.input:
        parser.error("say with --truth or --input where the truth is")
    try:
        if options.truth:
            sources.check_where(options.truth, options.input is not None or options.truth == "folder")
        inputs, format = choose_inputs(options, read_settings(options.output, options.model))
        where = options.truth or sources.guess_where(options.input, inputs, format)
        evaluation = evaluate(options.output, options.model, partial(sources.read_truth, sources.Examples(options.input, where, inputs, format)))
        if options.save:
            save_evaluation(evaluation, options.save)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    report(evaluation, where)
    return 0


def report(evaluation: Evaluation, where: str) -> None:
    """Print the figures, for a person."""
    print(f"model      {evaluation.model_id}")
    print(f"truth      {where}, by {evaluation.truth_by}; {evaluation.coverage.sentences()[0]}")
    for sentence in [*evaluation.coverage.sentences()[1:], *describe_odd_names(evaluation.coverage.by_class, where)]:
        print(f"note       {sentence}")
    if evaluation.num_foreign:
        print(f"note       {evaluation.num_foreign:,} truths are no class of the model, and count as wrong (such as {evaluation.foreign_example})")
    if evaluation.num_rejected:
        print(f"note       the {evaluation.num_rejected:,} rejected images that have a truth count as wrong")
    for name, share, reference in zip(("top-1", "top-5"), (evaluation.top1, evaluation.top5), REFERENCE, strict=True):
        low, high = wilson_interval(round(share * evaluation.num_images), evaluation.num_images)
        print(f"{name}      {share:7.2%} of {evaluation.num_images:,} (95 %: {low:.1%} to {high:.1%})"
              f"{f'   reference {reference:.2%} ({REFERENCE_SET})' if evaluation.imagenet_1k else ''}")
    print(f"ECE        {evaluation.ece:7.2%}   (confidence and accuracy apart, over {len(evaluation.calibration)} bins)")
    seen = [row for row in evaluation.by_class.to_pylist() if row["images"]]
    print(f"classes    {len(seen):,} of {len(evaluation.by_class):,} occur; the worst:")
    for row in sorted(seen, key=lambda row: (row["top1"], -row["images"]))[:SHOWN]:
        print(f"  {row['label']:30} top-1 {row['top1']:7.2%}  top-5 {row['top5']:7.2%}  of {row['images']:,}")
    print(f"confusions {sum(evaluation.confusions['images'].to_pylist()):,} images; the most frequent:")
    for row in evaluation.confusions.slice(0, SHOWN).to_pylist():
        print(f"  {row['label'] or row['label_id']} taken for {row['said']}: {row['images']:,}")
    if evaluation.finding:
        print(f"FAULT      {evaluation.finding}")


if __name__ == "__main__":
    sys.exit(main())
