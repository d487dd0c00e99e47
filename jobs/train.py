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
from importlib.util import find_spec

from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.inputs.find import add_flags, choose_inputs
from pipeline.stop import Stop, Stopped
from pipeline.trainer.recipe import Recipe, check_workers
from pipeline.training.begin import train
from pipeline.truth import sources
from pipeline.truth.holdout import wilson_interval

PARTS = {"epochs": "times over all images", "batch_size": "images a step, of all workers together", "image_size": "pixels",
         "learning_rate": "at the start", "decay_rate": "by which it is multiplied", "decay_epochs": "every so many epochs",
         "warmup_epochs": "in which it rises", "weight_decay": "but not of biases and BatchNorm",
         "label_smoothing": "share of the truth given to all classes", "dropout": "before the head", "clip_norm": "of gradients",
         "ema_decay": "of the moving average of the weights", "seed": "of the first weights and of the order of shards"}


def main() -> int:
    options = parsed(sys.argv[1:])
    if find_spec("timm") is None:
        sys.exit("error: jobs/train.py needs timm: pip install -c constraints.txt '.[train]'")
    stop = Stop()
    with stop.listening():
        try:
            figures = run(options, stop)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except Stopped as ended:
            print(f"{ended}; the same command goes on at the last epoch that was finished", file=sys.stderr)
            stop.leave()
    report(figures, options.save)
    return 0


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--input", required=True, metavar="URI", help="shards, as jobs/label.py takes them")
    data.add_argument("--truth", metavar="WHERE", help=f"{sources.HELP}; default: what --input seems to have")
    data.add_argument("--validation", metavar="URI", help="shards to judge by (default: a part of --input)")
    data.add_argument("--validation-truth", metavar="WHERE", help="default: as --truth")
    data.add_argument("--holdout", type=float, default=0.05, metavar="SHARE",
                      help="of the images of --input to judge by, without --validation (default: %(default)s)")
    data.add_argument("--classes", metavar="FILE", help="CSV of label_id,wnid,label (default: those that the truth names)")
    data.add_argument("--weights", metavar="WEIGHTS", help="to begin with, as jobs/label.py takes them (default: from scratch). The head is "
                      "kept where its classes, those of classes.csv beside the file or ImageNet-1k's, are the same, else made anew")
    add_flags(data, "as jobs/label.py has them")
    run = parser.add_argument_group("run")
    run.add_argument("--save", required=True, metavar="URI", help="folder for weights, classes, curves and state")
    run.add_argument("--workers", type=int, metavar="N", help="default: one for each GPU, or one")
    run.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto",
                     help="of the network's arithmetic; weights are float32 (default: %(default)s)")
    run.add_argument("--no-lease", dest="lease", action="store_false", help="train even while another training writes to --save")
    recipe = parser.add_argument_group("recipe")
    for name, what in PARTS.items():
        default = getattr(Recipe, name)
        recipe.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, metavar="N",
                            help=f"{what} (default: %(default)s)")
    recipe.add_argument("--no-augment", dest="augment", action="store_false", help="no random crops, flips and colours")
    return parser.parse_args(argv)


def run(options: argparse.Namespace, stop: Stop) -> dict[str, float]:
    """Check the flags; then train. torch and Ray, which take seconds to import, come last."""
    recipe = Recipe(**{field.name: getattr(options, field.name) for field in fields(Recipe)})
    inputs, format = choose_inputs(options, {})
    check(options)
    if inputs.max_image_bytes < 1:
        raise UserError(f"--max-image-bytes is {inputs.max_image_bytes}; it must be at least 1.")
    if options.workers is not None:
        check_workers(recipe, options.workers)
    where = options.truth if options.truth is not None else sources.guess_where(options.input, inputs, format)
    validation = None
    if options.validation is not None:
        validation = sources.Examples(options.validation, where if options.validation_truth is None else options.validation_truth, inputs, format)
    return train(sources.Examples(options.input, where, inputs, format), validation, options.holdout, recipe, options.weights, options.classes,
                 options.save, options.workers, sys.stderr, stop, options.lease)


def check(options: argparse.Namespace) -> None:
    """Raise UserError for flags that are wrong by themselves, but those of the recipe."""
    if not 0 < options.holdout < 1:
        raise UserError(f"--holdout is {options.holdout}; it is a share, between 0 and 1.")
    for name in ("input", "truth", "validation", "validation_truth", "classes", "weights", "save"):
        check_uri(name, getattr(options, name))
    if options.validation_truth is not None and options.validation is None:
        raise UserError("--validation-truth is of --validation, which is not given.")


def report(figures: dict[str, float], folder: str) -> None:
    print(f"trained    {figures['epoch']:,.0f} epochs, {figures['step']:,.0f} steps; loss {figures['loss']:.4f}")
    number = int(figures["valid_images"])
    judged = [f"{name} {told(figures[key], number)}" for key, name in (("top1", "top-1"), ("top5", "top-5"))] if number else []
    print(f"held out   {number:,} images: {', '.join(judged)}" if number else "held out   no image is held out: no accuracy")
    print(f"label      jobs/label.py --weights {folder}/weights.safetensors --classes {folder}/classes.csv")


def told(share: float, number: int) -> str:
    """A share with its 95 % interval: `75.00 % (95 %: 30.1 to 95.4 %)`."""
    low, high = wilson_interval(round(share * number), number)
    return f"{100 * share:.2f} % (95 %: {100 * low:.1f} to {100 * high:.1f} %)"


if __name__ == "__main__":
    sys.exit(main())
