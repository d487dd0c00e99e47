#!/usr/bin/env python3
"""Pack a folder of images into WebDataset tar shards that jobs/label.py reads.

  jobs/pack.py --input photos/ --output shards/

A run that was ended is completed by the next. Two shards are in memory at a time.
"""

import argparse
import sys

from pipeline.config import UserError
from pipeline.pack import pack


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="URI", help="a folder of images, searched recursively")
    parser.add_argument("--output", required=True, metavar="URI", help="where the shards go")
    parser.add_argument("--images-per-shard", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--prefix", default="images", metavar="NAME", help="NAME-00000.tar, … (default: %(default)s)")
    options = parser.parse_args()
    try:
        if options.images_per_shard < 1:
            raise UserError(f"--images-per-shard is {options.images_per_shard}; it must be at least 1.")
        packed = pack(options.input, options.output, options.images_per_shard, options.prefix)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{packed.num_images:,} images in {packed.num_shards:,} shards at {options.output}"
          f" ({packed.num_kept:,} of them were there before)")
    for sentence in packed.left_out.sentences():
        print(f"left out: {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
