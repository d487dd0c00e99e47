"""Benchmark part `job`: `jobs/label.py` as a process, over 1, 4 and 16 shards of 90 photographs.

Steady state is the slope from 4 to 16 shards. The rival is the labeller alone on all cores, measured before and after.
Peak memory counts the private memory of the job and all its child processes, and the object store. The weights are
untrained and come from a file, because making them takes seconds.
"""

from __future__ import annotations

import contextlib
import glob
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from pipeline.bench.measure import JOB, Part, Setting, race, ratio, slope
from pipeline.bench.model import BATCH, decode_photos, make_labeller
from pipeline.bench.photos import PER_SHARD, write_shards
from pipeline.model import weights

SIZES = (1, 4, 16)  # shards
# Between two looks at a run, and at its memory: five looks a second at the memory took 1.2 % of two cores.
LOOK_S, MEMORY_S = 0.2, 1.0


class Run(NamedTuple):
    """One process: its duration, the time of its first table, and its peak memory."""

    seconds: float
    first_commit_s: float
    peak_bytes: int


def measure(setting: Setting) -> Part:
    """Ratios `job_of_labeller`, `job_first_commit_s` (seconds), `job_memory_16x_over_4x`."""
    import safetensors.torch
    state = weights.load(weights.identify("seed:0"))
    network, image_NHWC = make_labeller(state), decode_photos(setting.photos, 2 * BATCH)
    runs: dict[int, list[Run]] = {number: [] for number in SIZES}
    rates, labels = [], []
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        safetensors.torch.save_file(state, f"{folder}/weights.safetensors")
        for number in SIZES:
            write_shards(setting.photos, f"{folder}/{number}", number)
        for round_ in range(max(1, setting.repeats // 2)):
            before = race({"alone": lambda: len(network(image_NHWC))}, 3)["alone"]
            for number in SIZES:
                runs[number].append(run_job(f"{folder}/{number}", f"{folder}/tables-{number}-{round_}",
                                            f"{folder}/weights.safetensors", number))
            labels.append(median(before + race({"alone": lambda: len(network(image_NHWC))}, 3)["alone"]))
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
    """Run the job as a process and watch it. Raises RuntimeError unless it writes `number` tables."""
    begun = time.perf_counter()
    first, peak, looked = 0.0, 0, 0.0
    with open(output + ".log", "wb") as log:
        process = subprocess.Popen([sys.executable, JOB, "--input", folder, "--output", output,
                                    "--weights", weights_path], stdout=log, stderr=log)
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
    """The private bytes of a process and all its child processes, and the bytes of the object store.

    The proportional set size is the same in one figure, but costs many times as much.
    """
    total = int(psutil.disk_usage("/dev/shm").used)
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):  # the process has ended
                memory = process.memory_info()
                total += memory.rss - memory.shared
    except psutil.NoSuchProcess:
        pass
    return total
