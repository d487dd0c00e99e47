"""Benchmark part `job`: the whole of `jobs/label.py`, as a process, over 1, 4 and 16 shards of 90 photographs.

Steady state is the slope from 4 to 16 shards, against the labeller alone on all cores, measured before and after. Peak
memory is what the job's process and all that it started have to themselves, and the object store. Untrained weights,
from a file, since making them takes seconds that weights from a file do not.
"""

from __future__ import annotations

import contextlib
import glob
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from pipeline.bench.measure import JOB, Part, Setting, race, ratio, slope
from pipeline.bench.model import BATCH, labeller, pixels
from pipeline.bench.photos import PER_SHARD, write_shards
from pipeline.model import weights

SIZES = (1, 4, 16)  # shards
LOOK_S, MEMORY_S = 0.2, 1.0  # how often a run is watched: five looks a second at its memory took 1.2 % of two cores


class Run(NamedTuple):
    seconds: float
    first_commit_s: float
    peak_bytes: int


def measure(setting: Setting) -> Part:
    """Ratios `job_of_labeller`, `job_first_commit_s` (seconds), `job_memory_16x_over_4x`."""
    import safetensors.torch
    state = weights.load(weights.identify("seed:0"))
    network, image_NHWC = labeller(state), pixels(setting.photos, 2 * BATCH)
    alone: Callable[[], int] = lambda: len(network(image_NHWC))
    runs: dict[int, list[Run]] = {number: [] for number in SIZES}
    rates, labels = [], []
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        safetensors.torch.save_file(state, f"{folder}/weights.safetensors")
        for number in SIZES:
            write_shards(setting.photos, f"{folder}/{number}", number)
        for round_ in range(max(1, setting.repeats // 2)):
            before = race({"alone": alone}, 3)["alone"]
            for number in SIZES:
                runs[number].append(run_job(f"{folder}/{number}", f"{folder}/tables-{number}-{round_}",
                                            f"{folder}/weights.safetensors", number))
            labels.append(median(before + race({"alone": alone}, 3)["alone"]))
            rates.append(slope({number * PER_SHARD: [runs[number][-1].seconds] for number in SIZES[1:]})[0])
    part = Part(figures={"job": {"labeller": labels, "job": rates, "runs": runs}})
    part.ratios["job_of_labeller"] = ratio(rates, labels)
    part.ratios["job_first_commit_s"] = median(run.first_commit_s for run in runs[1])
    part.ratios["job_memory_16x_over_4x"] = ratio(
        [run.peak_bytes for run in runs[16]], [run.peak_bytes for run in runs[4]])
    print(f"\njob, {os.cpu_count()} CPUs ({len(rates)} rounds): {median(rates):.1f} images/s in steady state, the "
          f"labeller alone {median(labels):.1f}")
    print(f"  {'shards of 90':>12} {'seconds':>9} {'first commit':>13} {'peak memory':>12}")
    for number, values in runs.items():
        print(f"  {number:12} {median(run.seconds for run in values):9.1f} "
              f"{median(run.first_commit_s for run in values):11.1f} s "
              f"{median(run.peak_bytes for run in values) / 2**20:8,.0f} MiB")
    return part


def run_job(folder: str, output: str, weights_path: str, number: int) -> Run:
    """Run the job as a process, and watch it; raises RuntimeError unless it wrote `number` tables."""
    begun = time.perf_counter()
    first, peak, looked = 0.0, 0, 0.0
    with open(output + ".log", "wb") as log:
        process = subprocess.Popen([sys.executable, JOB, "--input", folder, "--output", output, "--weights", weights_path],
                                   stdout=log, stderr=log)
        while process.poll() is None:
            first = first or (time.perf_counter() - begun if glob.glob(f"{output}/labels/*/*.parquet") else 0.0)
            if time.perf_counter() - looked > MEMORY_S:
                peak, looked = max(peak, _memory(process.pid)), time.perf_counter()
            time.sleep(LOOK_S)
    seconds = time.perf_counter() - begun
    if process.returncode or len(glob.glob(f"{output}/labels/*/*.parquet")) != number:
        raise RuntimeError(f"jobs/label.py: exit {process.returncode}\n{Path(output + '.log').read_text()[-3000:]}")
    return Run(seconds, first, peak)


def _memory(pid: int) -> int:
    """Bytes that a process and all that it started have to themselves, and those of the object store.

    The proportional set size would say it in one, but costs many times as much to ask for.
    """
    total = psutil.disk_usage("/dev/shm").used
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # it has ended
                memory = process.memory_info()
                total += memory.rss - memory.shared
    except psutil.NoSuchProcess:
        pass
    return total
