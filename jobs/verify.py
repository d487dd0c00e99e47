#!/usr/bin/env python3
"""Prove that every image of the shards has exactly one row in the tables; list what is missing, double or foreign.

Exit status: 0 proven, 1 something is wrong, 2 wrong usage.
"""

import argparse
import sys

from pipeline.errors import UserError
from pipeline.inputs.find import add_flags, choose_inputs
from pipeline.run.verify import verify
from pipeline.tables.history import read_settings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="URI", help="the shards, as given to jobs/label.py")
    parser.add_argument("--output", required=True, metavar="URI", help="the tables, as given to jobs/label.py")
    parser.add_argument("--model", metavar="MODEL_ID", help="which model's tables, if there are several")
    add_flags(parser)
    options = parser.parse_args()
    try:
        inputs, format = choose_inputs(options, read_settings(options.output, options.model))
        proof = verify(options.input, options.output, options.model, inputs, format)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in proof.problems:
        print(problem)
    for sentence in proof.left_out.sentences():
        print(f"left out: {sentence}")
    print(f"{proof.num_shards:,} shards, {proof.num_samples:,} samples, {proof.num_rows:,} rows "
          f"({proof.rejected.total():,} rejected): {proof.num_missing:,} missing, {proof.num_double:,} double, "
          f"{proof.num_foreign:,} foreign")
    print(f"digest {proof.digest}")
    return 1 if proof.problems else 0


if __name__ == "__main__":
    sys.exit(main())
