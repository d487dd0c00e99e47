#!/usr/bin/env python3
"""Train Inception-v4 on labelled shards, from scratch or from weights, on one worker or several.

  jobs/train.py --input shards/ --truth member:cls --save model/
  jobs/train.py --input photographs/ --truth folder --save model/ --weights own/weights.safetensors --classes own/classes.csv
  ray job submit --working-dir . -- jobs/train.py --input URI --truth WHERE --validation URI --save URI --workers 8

The defaults are the paper's recipe (arXiv 1602.07261), for ImageNet. The folder --save gets weights.safetensors and
classes.csv, which jobs/label.py takes, and the curves, after every epoch; the same command goes on after a kill, at the
last epoch that was finished. Weights are the moving average over the steps.
"""

import argparse
import sys
from dataclasses import fields

from pipeline import truth
from pipeline.config import UserError
from pipeline.inputs import add_flags, chosen
from pipeline.labeller import resolve_device

try:
    from pipeline.recipe import Recipe, training_precision
    from pipeline.train import Examples, train
except ImportError as error:
    sys.exit(f"error: jobs/train.py needs timm: pip install -c constraints.txt '.[train]' ({error})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--input", required=True, metavar="URI", help="shards, as jobs/label.py takes them")
    data.add_argument("--truth", metavar="WHERE", help=f"{truth.HELP}; default: what --input seems to have")
    data.add_argument("--validation", metavar="URI", help="shards to judge by (default: a part of --input)")
    data.add_argument("--validation-truth", metavar="WHERE", help="default: as --truth")
    data.add_argument("--holdout", type=float, default=0.05, metavar="SHARE",
                      help="of the images of --input to judge by, without --validation (default: %(default)s)")
    data.add_argument("--classes", metavar="FILE", help="CSV of label_id,wnid,label (default: those that the truth names)")
    data.add_argument("--weights", metavar="WEIGHTS", help="to begin with, as jobs/label.py takes them; of other classes "
                                                           "the head is made anew (default: from scratch)")
    add_flags(data, "as jobs/label.py has them")
    run = parser.add_argument_group("run")
    run.add_argument("--save", required=True, metavar="URI", help="folder for weights, classes, curves and state")
    run.add_argument("--workers", type=int, metavar="N", help="default: one for each GPU, or one")
    run.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto",
                     help="of the network's arithmetic; weights are float32 (default: %(default)s)")
    recipe = parser.add_argument_group("recipe")
    for name, what in (("epochs", "times over all images"), ("batch_size", "images a step, of all workers together"),
                       ("image_size", "pixels"), ("learning_rate", "at the start"),
                       ("decay_rate", "by which it is multiplied"), ("decay_epochs", "every so many epochs"),
                       ("warmup_epochs", "in which it rises"), ("weight_decay", "but not of biases and BatchNorm"),
                       ("label_smoothing", "share of the truth given to all classes"), ("dropout", "before the head"),
                       ("clip_norm", "of gradients"), ("ema_decay", "of the moving average of the weights"),
                       ("seed", "of the first weights and of the order of shards")):
        default = getattr(Recipe, name)
        recipe.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, metavar="N",
                            help=f"{what} (default: %(default)s)")
    recipe.add_argument("--no-augment", dest="augment", action="store_false", help="no random crops, flips and colours")
    options = parser.parse_args()
    if not 0 < options.holdout < 1:
        parser.error("--holdout is a share, between 0 and 1")
    inputs, format = chosen(options, {})
    try:
        options.precision = training_precision(options.precision, resolve_device("auto"))
        recipe_of = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
        where = options.truth or truth.look(options.input, inputs, format)
        validation = Examples(options.validation, options.validation_truth or where, inputs, format)
        figures = train(Examples(options.input, where, inputs, format), validation if options.validation else None,
                        options.holdout, recipe_of, options.weights, options.classes, options.save, options.workers, sys.stderr)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"trained    {figures['epoch']:,.0f} epochs, {figures['step']:,.0f} steps; loss {figures['loss']:.4f}")
    print(f"held out   {figures['valid_images']:,.0f} images: top-1 {figures['top1']:.2%}, top-5 {figures['top5']:.2%}")
    print(f"label      jobs/label.py --weights {options.save}/weights.safetensors --classes {options.save}/classes.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
