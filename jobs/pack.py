#!/usr/bin/env python3
"""`label-images pack` as a script, which needs no installed command: pack a folder of images into tar shards."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.app import main

if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]]))
