#!/usr/bin/env python3
"""`label-images bench` as a script, which needs no installed command: measure this machine."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (sys.path[0], os.environ.get("PYTHONPATH"))))  # Ray's workers

from pipeline.commands.app import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
