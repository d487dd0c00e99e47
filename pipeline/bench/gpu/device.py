"""Benchmark part `gpu`: what a CUDA device can do, what it does, and which kernels take the time.

In order: the matrix rate of the device; the start of a labeller; our runners and their rivals (`rivals.py`); the
kernels that take most of the time; the whole job in steady state (the slope between two sizes), with the share of the
time in which nvidia-smi says that the device was busy. A line says what is left out: everything without a device, and
each measurement that needs a missing package.
"""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np
import torch

from pipeline.bench.gpu.rivals import (
    COMPILED,
    EAGER,
    FAST,
    FED_2,
    PLAIN,
    attempt,
    list_builders,
    race_ready,
    repeat,
    replay,
)
from pipeline.bench.measure import Part, Setting, ratio, show, slope
from pipeline.model import weights
from pipeline.model.spec import INPUT_SIZE
from pipeline.runners.labeller import DTYPES, Labeller
from pipeline.runners.on_cuda import FastCuda
from pipeline.runners.precision import resolve_precision

FLOPS = 24.5e9  # of the network for an image of 299 px: 12.25 GMACs by torch's counter
BATCH: int | None = None  # None: the batch size of the labeller
MATRIX_SIZE = 8192
PRODUCTS = 20
SIZES = (40, 400)  # shards of the whole job


def measure(setting: Setting) -> Part:
    """Ratios `gpu_images_per_s` (model only), `gpu_startup_s`, `gpu_flops_share`, `gpu_fast_vs_plain`,
    `gpu_vs_timm_eager`, `gpu_vs_timm_compiled`, `gpu_fed_of_model`, `gpu_job_of_limit`, `gpu_busy`, as far as possible.
    """
    if not torch.cuda.is_available():
        print("\ngpu: left out, there is no CUDA device here")
        return Part()
    state = weights.load(weights.identify("seed:0"))
    part = Part()
    model = measure_network(setting, state, part)
    gc.collect()
    torch.compiler.reset()
    torch.cuda.empty_cache()  # the process of the job needs the memory
    whole = attempt("whole job", lambda: measure_job(setting, state), set())
    if whole is not None and model is not None:
        job, limit, busy = whole[0], min(model, whole[1]), whole[2]
        part.ratios["gpu_job_of_limit"] = job / limit
        if busy is not None:
            part.ratios["gpu_busy"] = busy
        part.figures["gpu_job"] = {"job": job, "limit": limit, "busy": busy}
        print(f"  {'limit: the lower of model and decode':44} {limit:10,.0f} images/s")
        print(f"  {'whole job, steady state':44} {job:10,.0f}, the device busy "
              f"{'(nvidia-smi does not say)' if busy is None else f'{busy:.2f} of the time'}")
    return part


def measure_network(setting: Setting, state: dict[str, torch.Tensor], part: Part) -> float | None:
    """Measure all but the job, into `part`. Images a second of our network alone; None if it does not work."""
    precision = resolve_precision("auto", "cuda")
    peak = matrix_rate("cuda", DTYPES[precision], MATRIX_SIZE)
    name = torch.cuda.get_device_name()
    print(f"\ngpu: {name}, {precision}, {peak / 1e12:.0f} TFLOP/s in matrix products", flush=True)
    begun = time.perf_counter()
    labeller = Labeller(state, "cuda", precision, batch_size=BATCH)
    part.ratios["gpu_startup_s"] = time.perf_counter() - begun
    print(f"  a labeller starts in {part.ratios['gpu_startup_s']:.1f} s: {labeller.runner} runner, batches of "
          f"{labeller.batch_size}{labeller.runner_note and ': ' + labeller.runner_note}", flush=True)
    image_NHWC = decode_or_invent(setting.photos, 2 * labeller.batch_size)
    rates = race_ready(list_builders(state, labeller, image_NHWC), setting.repeats)
    part.figures["gpu"] = {"name": name, "precision": precision, "matrix_flops": peak,
                           "runner": labeller.runner, "runner_note": labeller.runner_note, "rates": rates}
    attempt("profile", lambda: print_kernels(choose_work(labeller)), set())
    ours = FAST if FAST in rates else PLAIN
    if ours not in rates:
        return None
    show(f"gpu, batches of {labeller.batch_size}", rates, ours)
    model = median(rates[ours])
    part.ratios |= {"gpu_images_per_s": model, "gpu_flops_share": model * FLOPS / peak}
    print(f"  {model * FLOPS / peak:.2f} of the device's matrix rate")
    for name, above, below in (("gpu_fast_vs_plain", FAST, PLAIN), ("gpu_vs_timm_eager", ours, EAGER),
                               ("gpu_vs_timm_compiled", ours, COMPILED), ("gpu_fed_of_model", FED_2, ours)):
        if above in rates and below in rates:
            part.ratios[name] = ratio(rates[above], rates[below])
    return model


def decode_or_invent(photos: list[bytes], number: int) -> np.ndarray:
    """The first `number` photographs as uint8 [number, 299, 299, 3]; random pixels if no photograph can be decoded."""
    def decode() -> np.ndarray:
        from pipeline.bench.model import decode_photos
        return decode_photos(photos, number)
    image_NHWC: np.ndarray | None = attempt("photographs", decode, set()) if photos else None
    if image_NHWC is not None:
        return image_NHWC
    print("  the images are random pixels")
    return np.random.default_rng(0).integers(0, 256, (number, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Floating-point operations a second of square matrix products, the best of three tries."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(3):
        _synchronize(device)
        begun = time.perf_counter()
        for _ in range(PRODUCTS):
            a @ b
        _synchronize(device)
        best = max(best, PRODUCTS * 2 * size**3 / (time.perf_counter() - begun))
    return best


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def choose_work(labeller: Labeller) -> Callable[[], int]:
    """The labeller's own way to label a batch that is on the device."""
    run = labeller.run
    if isinstance(run, FastCuda):
        return lambda: replay(run)
    device_NHWC = torch.zeros((labeller.batch_size, INPUT_SIZE, INPUT_SIZE, 3), dtype=torch.uint8, device="cuda")
    return lambda: repeat(run.network, device_NHWC)


def print_kernels(work: Callable[[], int], number: int = 10) -> None:
    """Print the kernels that take most of the device's time, with their shares and calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
    seconds = {event.key: (event.self_device_time_total, event.count) for event in profile.key_averages()}
    total = sum(value for value, _ in seconds.values())
    if not total:
        print("  profile: torch's profiler saw no kernel")
        return
    print(f"  {'kernel':84} {'share':>6} {'calls':>6}")
    for name, (value, count) in sorted(seconds.items(), key=lambda item: -item[1][0])[:number]:
        print(f"  {name[:84]:84} {value / total:6.1%} {count:6}")


def measure_job(setting: Setting, state: dict[str, torch.Tensor]) -> tuple[float, float, float | None]:
    """Images a second of the whole job in steady state, and of decoding alone; the busy share in the longer run."""
    import ray  # noqa: F401  # the job needs it
    import safetensors.torch

    from pipeline.bench.feed import one_core_rate
    from pipeline.bench.job import run_job
    from pipeline.bench.photos import PER_SHARD, write_shards
    decode = len(os.sched_getaffinity(0)) * one_core_rate(setting.photos)
    seconds: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
        safetensors.torch.save_file(state, f"{folder}/weights.safetensors")
        for number in SIZES:
            write_shards(setting.photos, f"{folder}/{number}", number)
            tables, file = f"{folder}/tables-{number}", f"{folder}/weights.safetensors"
            with watch_busy(f"{folder}/busy") as shares:
                run = run_job(f"{folder}/{number}", tables, file, number)
            seconds[number * PER_SHARD] = [run.seconds]
    steady = [share for share in shares if share > 0]  # before the first batch Ray and the weights are loading
    return slope(seconds)[0], decode, sum(steady) / len(steady) / 100 if steady else None


@contextlib.contextmanager
def watch_busy(path: str) -> Iterator[list[float]]:
    """The percent of each half second in which a kernel ran on this process's device; filled after the context.

    The list stays empty if nvidia-smi is missing or does not say, as for slices (MIG).
    """
    shares: list[float] = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    with open(path, "w") as file:
        try:
            watcher = subprocess.Popen(["nvidia-smi", f"--id={visible}", "--query-gpu=utilization.gpu",
                                        "--format=csv,noheader,nounits", "-lms", "500"], stdout=file, stderr=file)
        except OSError:
            yield shares
            return
        with watcher:
            try:
                yield shares
            finally:
                watcher.terminate()
    with open(path) as file:
        shares += [float(line) for line in file if line.strip().isdigit()]
