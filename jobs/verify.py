#!/usr/bin/env python3
"""`label-images verify` as a script, which needs no installed command: prove that each image has exactly one row."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.app import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
