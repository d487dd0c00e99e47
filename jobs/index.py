#!/usr/bin/env python3
"""`label-images index` as a script, which needs no installed command: an index for quick neighbours."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.app import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
