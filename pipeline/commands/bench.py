"""`label-images bench`: measure this machine."""

from __future__ import annotations

import json
import platform
import tempfile

from pipeline.config import Count
from pipeline.errors import UserError


def bench(*parts: str, photos: str | None = None, repeats: Count = 5) -> int:
    """Measure this machine, ours against its rivals.

    All run in turn in the same run. The figures are printed as tables and, last, as one JSON line.

    - decode: one core: encoded photographs to pixels, against Pillow, simplejpeg, torchvision
    - model: the network on this processor, against timm, OpenVINO, torch.compile
    - feed: pixels to where a network takes them, against Ray Data as documented, webdataset, Daft
    - job: the whole of jobs/label.py against the labeller alone; first commit; memory
    - driver: how many images a second one driver carries, and what it keeps of a shard
    - plan: listing and planning 10^4, 10^5, 10^6 shards, against a store on 127.0.0.1 that answers after 50 ms
    - night: 10^9 images on 4 to 100 GPUs in simulation: what limits, losses by spot, cost
    - sql: DuckDB over few and many tables, and the neighbours of one image among a million (6 GB of scratch space)
    - embeddings: an index, near-duplicates, another head, over a million made-up rows (20 GB of scratch space)
    - gpu: a CUDA device: its matrix rate; our runners against timm, torch.compile, TensorRT; the whole job

    The rivals come with `make bench`. Each figure is a median; ratios are taken round by round.

    Args:
        parts: The parts to measure (default: all).
        photos: Folder of tar shards of JPEGs to use (default: packaged photographs, cropped and encoded to
            ImageNet's sizes).
        repeats: Rounds.
    """
    from pipeline.bench import PARTS, run

    for part in parts:
        if part not in PARTS:
            raise UserError(f"PART is {part!r}; it takes some of {', '.join(PARTS)}.")
    from pipeline.bench.measure import Setting
    from pipeline.bench.photos import photographs

    encoded = photographs(photos)
    with tempfile.TemporaryDirectory() as folder:
        result = run(list(parts) or list(PARTS), Setting(encoded, folder, repeats))
    print(json.dumps({"machine": platform.machine(), "photos": photos or "packaged", **result}))
    return 0
