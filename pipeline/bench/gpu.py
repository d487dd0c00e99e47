"""Benchmark part `gpu`: what a CUDA device could do, what it does, and where the rest goes. Left out where there is none.

In turn: the device's own matrix rate; the network on batches that are already there; the labeller fed from host memory by
two threads, as the job feeds it; the whole job (steady state: slope between two sizes), with the share of the time in
which the device was busy, as nvidia-smi tells it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np
import torch

from pipeline import weights
from pipeline.bench.feed import one_core_rate
from pipeline.bench.job import run_job
from pipeline.bench.measure import Part, Setting, race, ratio, slope
from pipeline.bench.model import pixels
from pipeline.bench.photos import PER_SHARD, write_shards
from pipeline.labeller import DTYPES, Labeller, resolve_precision
from pipeline.runners import OnCuda

FLOPS = 24.5e9  # of the network for an image of 299 px: 12.25 GMACs by torch's counter
BATCH = 256
SIZES = (40, 400)  # shards of the whole job
REPLAYS = 20


def measure(setting: Setting) -> Part:
    """Ratios `gpu_images_per_s` (model only), `gpu_fed_of_model`, `gpu_job_of_limit`, `gpu_flops_share`, `gpu_busy`."""
    if not torch.cuda.is_available():
        print("\ngpu: left out, there is no CUDA device here")
        return Part()
    state = weights.load(weights.identify("seed:0"))
    precision = resolve_precision("auto", "cuda")
    peak = matrix_rate("cuda", DTYPES[precision], 8192)
    rates = _rates(Labeller(state, "cuda", precision, batch_size=BATCH), pixels(setting.photos, 4 * BATCH), setting.repeats)
    model = median(rates["model"])
    limit = min(model, len(os.sched_getaffinity(0)) * one_core_rate(setting.photos))
    torch.cuda.empty_cache()  # for the job's own process
    job, busy = _job(setting, state)
    part = Part({"gpu_images_per_s": model, "gpu_fed_of_model": ratio(rates["fed"], rates["model"]),
                 "gpu_job_of_limit": job / limit, "gpu_flops_share": model * FLOPS / peak, "gpu_busy": busy})
    part.figures["gpu"] = {"name": torch.cuda.get_device_name(), "precision": precision, "matrix_flops": peak,
                           "rates": rates, "job": job, "limit": limit}
    print(f"\ngpu: {torch.cuda.get_device_name()}, {precision}, {peak / 1e12:.0f} TFLOP/s in matrix products")
    print(f"  {'model only, batches on the device':44} {model:10,.0f} images/s, {part.ratios['gpu_flops_share']:.2f} of that rate")
    print(f"  {'labeller, fed from host memory':44} {median(rates['fed']):10,.0f}")
    print(f"  {'limit: the lower of model and decode':44} {limit:10,.0f}")
    print(f"  {'whole job, steady state':44} {job:10,.0f}, the device busy {busy:.2f} of the time")
    return part


def _rates(labeller: Labeller, image_NHWC: np.ndarray, repeats: int) -> dict[str, list[float]]:
    run = labeller.run
    assert isinstance(run, OnCuda)
    return race({"model": lambda: replay(run), "fed": lambda: fed(labeller, image_NHWC, 8)}, repeats)


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second of square matrix products, the best of three tries."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(3):
        _finish(device)
        begun = time.perf_counter()
        for _ in range(REPLAYS):
            a @ b
        _finish(device)
        best = max(best, REPLAYS * 2 * size**3 / (time.perf_counter() - begun))
    return best


def replay(run: OnCuda) -> int:
    """Replay the captured graph on what lies on the device; the number of images."""
    slot = run.slots.get()
    try:
        with torch.cuda.stream(run.computing):
            for _ in range(REPLAYS):
                slot.graphs[run.batch_size].replay()
        run.computing.synchronize()
    finally:
        run.slots.put(slot)
    return REPLAYS * run.batch_size


def fed(labeller: Callable[[np.ndarray], object], image_NHWC: np.ndarray, calls: int) -> int:
    """Let two threads label the images so many times; the number of images."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(labeller, [image_NHWC] * calls))
    return calls * len(image_NHWC)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _job(setting: Setting, state: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Images a second of the whole job in steady state, and the busy share of the device during the longer run."""
    import safetensors.torch
    seconds: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        safetensors.torch.save_file(state, f"{folder}/weights.safetensors")
        for number in SIZES:
            write_shards(setting.photos, f"{folder}/{number}", number)
            with _busy(f"{folder}/busy") as shares:
                run = run_job(f"{folder}/{number}", f"{folder}/tables-{number}", f"{folder}/weights.safetensors", number)
            seconds[number * PER_SHARD] = [run.seconds]
    steady = [share for share in shares if share > 0]  # before the first batch Ray and the weights are loading
    return slope(seconds)[0], sum(steady) / max(1, len(steady)) / 100


@contextlib.contextmanager
def _busy(path: str) -> Iterator[list[float]]:
    """Percent of the last half second in which a kernel ran, every half second, of the first device."""
    shares: list[float] = []
    with open(path, "w") as file, subprocess.Popen(
            ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"],
            stdout=file) as watcher:
        try:
            yield shares
        finally:
            watcher.terminate()
    with open(path) as file:
        shares += [float(line) for line in file if line.strip().isdigit()]
