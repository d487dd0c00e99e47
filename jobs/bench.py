#!/usr/bin/env python3
"""Measure this machine: ours against its rivals in the same run, as tables and, last, one JSON line."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.bench import PARTS, run
from pipeline.bench.measure import Setting
from pipeline.bench.photos import photographs
from pipeline.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="decode  one core: encoded photographs to pixels, against Pillow, simplejpeg, torchvision\n"
               "model   the network on this processor, against timm, OpenVINO, torch.compile\n"
               "feed    pixels to where a network takes them, against Ray Data as documented, webdataset, Daft\n"
               "job     the whole of jobs/label.py against the labeller alone; first commit; memory\n"
               "driver  how many images a second one driver carries, and what it keeps of a shard\n"
               "plan    listing and planning 10^4, 10^5, 10^6 shards, against a store on 127.0.0.1\n"
               "sql     DuckDB over few and many tables, and the neighbours of one image among a million (6 GB of scratch space)\n"
               "gpu     a CUDA device: its matrix rate; our runners against timm, torch.compile, TensorRT; the whole job\n\n"
               "The rivals come with `make bench`. Each figure is a median; ratios are taken round by round.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--photos", metavar="DIR", help="tar shards of JPEGs to use (default: packaged photographs, "
                                                        "cropped and encoded to ImageNet's sizes)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds (default: 5)")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown or options.repeats < 1:
        parser.error(f"PART {unknown[0]!r} is none of {', '.join(PARTS)}." if unknown else "--repeats must be at least 1.")
    try:
        photos = photographs(options.photos)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        result = run(options.parts or list(PARTS), Setting(photos, folder, options.repeats))
    print(json.dumps({"machine": platform.machine(), "photos": options.photos or "packaged", **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
