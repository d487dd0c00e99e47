#!/usr/bin/env python3
"""Label with your own classes: fit a linear head on the embeddings of an output, and save it as weights and classes.

  jobs/finetune.py --output tables/ --input photographs/ --truth folder --save cats-and-dogs/
  jobs/label.py --input photographs/ --output own/ --weights cats-and-dogs/weights.safetensors \\
                --classes cats-and-dogs/classes.csv

Takes minutes and no GPU: no image is read but for its truth. To train the layers below the head too, go on with
jobs/train.py --weights cats-and-dogs/weights.safetensors --classes cats-and-dogs/classes.csv.
"""

import argparse
import sys
from functools import partial

from pipeline.config import Config, check_uri
from pipeline.errors import UserError
from pipeline.inputs.find import add_flags, choose_inputs
from pipeline.store.uris import canonical_uri
from pipeline.tables.history import read_settings
from pipeline.training.claim import check_not_overwritten
from pipeline.truth import sources
from pipeline.truth.holdout import wilson_interval

try:
    from pipeline.trainer.saved import CLASSES, WEIGHTS, save_model
    from pipeline.training.finetune import fit
    from pipeline.truth.coverage import describe_classes, describe_odd_names
except ImportError as error:
    sys.exit(f"error: jobs/finetune.py needs scikit-learn and DuckDB: pip install -c constraints.txt '.[sql,train]' ({error})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="URI", help="the tables, as given to jobs/label.py")
    parser.add_argument("--save", required=True, metavar="URI", help=f"folder for {WEIGHTS} and {CLASSES}")
    parser.add_argument("--weights", default=Config.weights, metavar="WEIGHTS",
                        help="those that labelled the tables (default: %(default)s)")
    parser.add_argument("--truth", metavar="WHERE", help=f"{sources.HELP}; default: what --input seems to have")
    parser.add_argument("--input", metavar="URI", help="the shards, as given to jobs/label.py")
    parser.add_argument("--holdout", type=float, default=0.2, metavar="SHARE",
                        help="of the images, kept to judge the head by (default: %(default)s)")
    add_flags(parser)
    options = parser.parse_args()
    if not options.truth and not options.input:
        parser.error("say with --truth or --input where the truth is")
    if not 0 < options.holdout < 1:
        parser.error(f"--holdout {options.holdout}: it is a share, between 0 and 1")
    try:
        if options.truth:
            sources.check_where(options.truth, options.input is not None or options.truth == "folder")
        check_uri("save", options.save)
        folder = canonical_uri(options.save)
        check_not_overwritten(folder, options.weights)
        inputs, format = choose_inputs(options, read_settings(options.output, None))
        where = options.truth or sources.guess_where(options.input, inputs, format)
        head = fit(options.output, options.weights, partial(sources.read_truth, sources.Examples(options.input, where, inputs, format), for_fit=True),
                   options.holdout)
        save_model(head.state, head.classes, folder)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"truth      {where}; {head.coverage.sentences()[0]}")
    for sentence in [*head.coverage.sentences()[1:], *describe_odd_names(head.num_of_class, where)]:
        print(f"note       {sentence}")
    print(f"classes    {describe_classes(head.num_of_class)}")
    print(f"fitted on  {head.num_fitted:,} images (regularisation C = {head.strength:g})")
    if head.top1 is None:
        print("held out   no image is held out: no accuracy")
    else:
        low, high = wilson_interval(round(head.top1 * head.num_held_out), head.num_held_out)
        print(f"held out   {head.num_held_out:,} images: top-1 {head.top1:.2%} (95 %: {low:.1%} to {high:.1%}); "
              f"the most frequent class alone {head.chance:.2%}")
    print(f"label      jobs/label.py --weights {folder}/{WEIGHTS} --classes {folder}/{CLASSES} --input URI --output URI")
    return 0


if __name__ == "__main__":
    sys.exit(main())
