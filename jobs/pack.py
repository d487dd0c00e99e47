#!/usr/bin/env python3
"""Pack a folder of images into WebDataset tar shards that jobs/label.py reads.

  jobs/pack.py --input photos/ --output shards/
  jobs/pack.py --input photos/ --output shards/ --members cls,json

The key of photos/a/1.jpg is a/1. With --members cls,json the files a/1.cls and a/1.json, or a/1.jpg.json, go along behind it, so that
--truth member:cls of jobs/evaluate.py, finetune.py and train.py finds them. What lies beside images and is not packed is counted.
A run that was ended is completed by the next. Two shards are in memory at a time.

Exit status: 0 packed, 2 wrong usage, or a file that cannot be read or written: the message says which.
"""

import argparse
import sys

from pipeline.errors import UserError
from pipeline.inputs.pack import pack


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="URI", help="a folder of images, searched recursively")
    parser.add_argument("--output", required=True, metavar="URI",
                        help="where the shards go, and nothing else is written; it may lie in the input, but is not the input")
    parser.add_argument("--members", metavar="SUFFIXES", help="take along the texts beside each image that have one of these suffixes, "
                        "such as cls,txt,json; a text is at most 4 MiB (default: images alone)")
    parser.add_argument("--images-per-shard", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--prefix", default="images", metavar="NAME", help="NAME-00000.tar, … (default: %(default)s)")
    options = parser.parse_args()
    try:
        if options.images_per_shard < 1:
            raise UserError(f"--images-per-shard is {options.images_per_shard}; it must be at least 1.")
        members = () if options.members is None else options.members.split(",")
        packed = pack(options.input, options.output, options.images_per_shard, options.prefix, members)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    texts = f" and {packed.num_texts:,} texts beside them" if packed.members else ""
    print(f"{packed.num_images:,} images{texts} in {packed.num_shards:,} shards at {options.output}"
          f" ({packed.num_kept:,} of them were there before)")
    for sentence in packed.sentences():
        print(f"left out: {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
