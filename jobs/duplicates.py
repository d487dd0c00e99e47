#!/usr/bin/env python3
"""`label-images duplicates` as a script, which needs no installed command: images that are nearly the same."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.app import main

if __name__ == "__main__":
    sys.exit(main(["duplicates", *sys.argv[1:]]))
