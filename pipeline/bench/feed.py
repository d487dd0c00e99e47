"""Benchmark part `feed`: how many decoded images a second reach the place where a network would take them.

Ours is the job's own Ray Data chain up to an actor that counts the images. The rivals read the same tar shards on the
same cores, each in a process of its own, and throw the images away:
- Ray Data as its guide to image classification teaches: `read_webdataset`, torchvision's ToTensor and Resize, with the
  original image beside, and `map_batches` on an actor.
- webdataset with a DataLoader and Pillow.
- Daft with its own decoder and resizer: bilinear, to the square, which is less work than ours.
Steady state is the slope between two numbers of shards. The ceiling is our decoder on one core, times the cores.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.bench.measure import Part, Setting, one_core, race, ratio, slope
from pipeline.bench.photos import PER_SHARD, write_shards
from pipeline.images.decode import decode
from pipeline.model.spec import INPUT_SIZE, MEAN, RESIZE_SIDE, STD

SIZES = {"ours": (40, 200), "Ray Data, as documented": (10, 40), "webdataset, DataLoader, Pillow": (10, 50),
         "Daft": (10, 40)}  # shards; the difference takes 10 seconds or more on two cores


def measure(setting: Setting) -> Part:
    """Ratios `feed_of_ceiling`, `feed_vs_ray_docs`, `feed_vs_webdataset`, `feed_vs_daft`."""
    part = Part()
    ceilings: list[float] = []
    rates: dict[str, list[float]] = {name: [] for name in SIZES}
    starts: dict[str, list[float]] = {name: [] for name in SIZES}
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        for number in sorted({number for sizes in SIZES.values() for number in sizes}):
            write_shards(setting.photos, f"{folder}/{number}", number)
        for _ in range(max(1, setting.repeats // 2)):
            ceilings.append(len(os.sched_getaffinity(0)) * one_core_rate(setting.photos))
            for name, sizes in SIZES.items():
                seconds = {PER_SHARD * number: [_time_feeder(name, f"{folder}/{number}")] for number in sizes}
                rate, start = slope(seconds)
                rates[name].append(rate)
                starts[name].append(start)
    print(f"\nfeed, {len(os.sched_getaffinity(0))} cores, steady state ({len(ceilings)} rounds)")
    print(f"  {'':34} {'images/s':>10} {'start-up s':>11}  of the ceiling")
    print(f"  {'ceiling: cores x one core':34} {median(ceilings):10,.0f} {'':>11}  1.00")
    for name, values in rates.items():
        print(f"  {name:34} {median(values):10,.0f} {median(starts[name]):11.1f}  "
              f"{ratio(values, ceilings):.2f}")
    for key, theirs in (("feed_of_ceiling", ceilings), ("feed_vs_ray_docs", rates["Ray Data, as documented"]),
                        ("feed_vs_webdataset", rates["webdataset, DataLoader, Pillow"]),
                        ("feed_vs_daft", rates["Daft"])):
        part.ratios[key] = ratio(rates["ours"], theirs)
    part.figures["feed"] = {"ceiling": ceilings, "rates": rates, "start_s": starts}
    return part


def one_core_rate(photos: list[bytes]) -> float:
    """Images a second of our decoder on one core."""
    slot_HWC = np.empty((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)

    def work() -> int:
        for photo in photos[:PER_SHARD]:
            decode(photo, slot_HWC, max_pixels=10**9, max_bytes=10**9)
        return len(photos[:PER_SHARD])
    with one_core():
        return median(race({"one": work}, 5)["one"])


def _time_feeder(name: str, folder: str) -> float:
    """Seconds of a process that feeds all images under `folder`. Raises RuntimeError unless it counts every image."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "pipeline.bench.feed", name, folder],
                          capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    num_shards = len(os.listdir(folder))
    if done.returncode or json.loads(done.stdout.splitlines()[-1]) != num_shards * PER_SHARD:
        raise RuntimeError(f"{name} over {folder}: exit {done.returncode}\n{done.stdout[-500:]}{done.stderr[-3000:]}")
    return seconds


class NullLabeller:
    """Stands for the labeller: takes pixels and counts images."""

    def __call__(self, batch: Any) -> dict[str, np.ndarray]:
        from pipeline.stages.batch import pixels_of
        return {"num": np.array([len(pixels_of(batch))])}


def _ours(folder: str) -> int:
    import logging

    import ray

    from pipeline.actors import graph
    from pipeline.actors.nodes import Node
    from pipeline.actors.pools import choose_pools
    from pipeline.config import Config
    from pipeline.inputs import find
    cores = len(os.sched_getaffinity(0))
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    config = Config(input=folder, output=folder + "-tables", decode_threads=cores)
    pools = choose_pools(config, [Node("here", "", cores, 1)], "cuda")  # the pools of a network that is never slower
    pools = dataclasses.replace(pools, decode_cpus=0.5)  # for Ray's accounting; the threads take the cores
    shards = find.find_shards(folder).shards
    shards = shards.append_column("number", pa.array(range(len(shards)), pa.int32()))
    tables = graph.shard_tables(config, pools, shards)
    blocks = graph.chain_stages(pools, tables, {"decode": graph.decode_stage(config, pools)}, {})
    counts = blocks.map_batches(
        NullLabeller, batch_size=1, batch_format="pyarrow", num_cpus=0.5, compute=ray.data.ActorPoolStrategy(size=1))
    return sum(int(np.sum(block["num"])) for block in counts.iter_batches(batch_size=None, batch_format="numpy"))


def _ray_as_documented(folder: str) -> int:
    import logging

    import ray
    from torchvision import transforms
    preprocess = transforms.Compose([  # to float first, as in the guide
        lambda image: np.dstack([image] * 3) if image.ndim == 2 else image,  # a grey image; the guide has none
        transforms.ToTensor(), transforms.Resize(RESIZE_SIDE, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(INPUT_SIZE), transforms.Normalize([MEAN] * 3, [STD] * 3)])
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    dataset = ray.data.read_webdataset(folder).map(
        lambda row: {"original_image": row["jpg"], "transformed_image": preprocess(row["jpg"]).numpy()})
    counts = dataset.map_batches(NullModel, batch_size=32, compute=ray.data.ActorPoolStrategy(size=1))
    return sum(row["num"] for row in counts.take_all())


class NullModel:
    """Stands for the guide's ResnetModel: takes a batch and counts its images."""

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch
        return {"num": np.array([len(torch.from_numpy(batch["transformed_image"]))])}


def _webdataset(folder: str) -> int:
    import torch
    import webdataset
    from timm.data.transforms_factory import create_transform
    preprocess = create_transform((3, INPUT_SIZE, INPUT_SIZE), interpolation="bicubic", mean=(MEAN,) * 3,
                                  std=(STD,) * 3, crop_pct=0.875)
    shards = sorted(os.path.join(folder, name) for name in os.listdir(folder))
    from PIL import Image
    dataset = webdataset.WebDataset(shards, shardshuffle=False).map(
        lambda sample: (preprocess(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")),)).batched(32)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=len(os.sched_getaffinity(0)))
    return sum(len(batch[0]) for batch in loader)


def _daft(folder: str) -> int:
    import daft

    from pipeline.formats.tars.read import read_samples

    def read_members(paths: Any) -> list[list[bytes]]:
        shards = []
        for path in paths.to_pylist():
            with open(path, "rb") as file:
                shards.append([sample.encoded for sample in read_samples(file, 2**26)])
        return shards

    def consume(images: Any) -> list[int]:
        return [1] * len(images)

    members = daft.udf(return_dtype=daft.DataType.list(daft.DataType.binary()))(read_members)  # Daft reads no tars
    count = daft.udf(return_dtype=daft.DataType.int64())(consume)
    paths = sorted(os.path.join(folder, name) for name in os.listdir(folder))
    frame = daft.from_pydict({"path": paths})
    frame = frame.select(members(daft.col("path")).alias("image")).explode("image")
    frame = frame.select(daft.col("image").decode_image(mode="RGB").resize(INPUT_SIZE, INPUT_SIZE).alias("image"))
    return sum(frame.select(count(daft.col("image")).alias("num")).to_pydict()["num"])


FEEDERS: dict[str, Callable[[str], int]] = {
    "ours": _ours, "Ray Data, as documented": _ray_as_documented, "webdataset, DataLoader, Pillow": _webdataset,
    "Daft": _daft}

if __name__ == "__main__":
    print(json.dumps(FEEDERS[sys.argv[1]](sys.argv[2])))
