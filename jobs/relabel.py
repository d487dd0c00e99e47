#!/usr/bin/env python3
"""`label-images relabel` as a script, which needs no installed command: the tables of a new head."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.app import main

if __name__ == "__main__":
    sys.exit(main(["relabel", *sys.argv[1:]]))
