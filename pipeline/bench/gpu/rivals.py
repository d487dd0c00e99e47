"""The rivals of benchmark part `gpu`: our runners, timm, torch.compile and TensorRT, each with the same batch.

In: weights and images. Out: functions by name that label batches and return the number of images.
All rivals compute on a batch on the device, but the names with "fed" take batches from host memory, as the job does.
Not here: the printed table, and the whole job (`device.py`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.bench.measure import race
from pipeline.model.spec import INPUT_SIZE, MEAN, STD
from pipeline.runners.folded import UintNetwork
from pipeline.runners.labeller import DTYPES, Labeller
from pipeline.runners.on_cuda import FastCuda, PlainCuda

FAST, UNFUSED, PLAIN = "ours fast, graph replayed", "ours fast, convolution and ReLU apart", "ours plain"
EAGER, COMPILED = "timm eager, channels_last, autocast", "timm, torch.compile (default mode), autocast"
OURS_COMPILED, TENSORRT = "ours, torch.compile (default mode)", "timm, TensorRT fp16"
FED_2, FED_3, FED_PLAIN = "labeller fed by 2 threads", "labeller fed by 3 threads", "ours plain, fed by 2 threads"

PASSES = 10  # batches of a turn

Work = Callable[[], int]  # labels batches; the number of images


def list_builders(state: Mapping[str, Tensor], labeller: Labeller,
                  image_NHWC: np.ndarray) -> dict[str, Callable[[], Work]]:
    """The functions that build the rivals, by name.

    Args:
        image_NHWC: uint8 [M, 299, 299, 3], M a multiple of the batch size.
    """
    size, dtype = labeller.batch_size, DTYPES[labeller.precision]
    run = labeller.run
    device_NHWC = torch.tensor(image_NHWC[:size], device="cuda")

    def build_network() -> UintNetwork:
        return UintNetwork(state, dtype, labeller.num_top).cuda()

    def build_tensorrt() -> Work:
        import torch_tensorrt
        model = load_timm(state).half()
        images_NCHW = _normalise(device_NHWC).half()
        engine = torch_tensorrt.compile(model, ir="dynamo", inputs=[images_NCHW], enabled_precisions={torch.half})
        return lambda: repeat(engine, images_NCHW)

    builders: dict[str, Callable[[], Work]] = {
        PLAIN: lambda: _repeat_on(build_network(), device_NHWC),
        EAGER: lambda: _autocast(load_timm(state), _normalise(device_NHWC), dtype),
        COMPILED: lambda: _autocast(torch.compile(load_timm(state)), _normalise(device_NHWC), dtype),
        OURS_COMPILED: lambda: _repeat_on(torch.compile(build_network()), device_NHWC),
        TENSORRT: build_tensorrt,
        FED_2: lambda: lambda: feed(labeller, image_NHWC, 4, 2),
        FED_3: lambda: lambda: feed(labeller, image_NHWC, 6, 3),
    }
    if isinstance(run, FastCuda):
        builders = {FAST: lambda: lambda: replay(run)} | builders
        builders[FED_PLAIN] = lambda: _feed_plain(PlainCuda(build_network(), size), image_NHWC)
        if dtype != torch.float32:
            builders[UNFUSED] = lambda: _replay_of(FastCuda(build_network(), size, fused=False))
    return builders


def race_ready(builders: Mapping[str, Callable[[], Work]], repeats: int) -> dict[str, list[float]]:
    """Build the rivals and race those that work: images a second of each, one figure for each round.

    A rival that fails, now or in the race, is left out, and a line says why.
    """
    failed: set[str] = set()
    rivals: dict[str, Work] = {}

    def guard(name: str, work: Work) -> Work:
        def turn() -> int:
            return 0 if name in failed else attempt(name, work, failed) or 0
        return turn

    for name, build in builders.items():
        begun = time.perf_counter()
        work = attempt(name, build, failed)
        if work is not None and attempt(name, work, failed):
            rivals[name] = guard(name, work)
            print(f"  {name}: ready after {time.perf_counter() - begun:.1f} s", flush=True)
    rates = race(rivals, repeats)
    return {name: values for name, values in rates.items() if name not in failed}


def attempt(name: str, work: Callable[[], Any], failed: set[str]) -> Any:
    """What `work` returns. If it fails, a line says why, `failed` gets the name, and the result is None."""
    try:
        return work()
    except ModuleNotFoundError as error:
        print(f"  {name}: left out, {error.name} is not installed", flush=True)
    except Exception as error:  # a rival may fail in any way; the others are measured
        logging.getLogger(__name__).debug("%s failed", name, exc_info=True)
        print(f"  {name}: failed, {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}", flush=True)
    failed.add(name)
    return None


@torch.inference_mode()
def repeat(model: Callable[[Tensor], object], images: Tensor) -> int:
    """Compute the batch `PASSES` times; the number of images."""
    for _ in range(PASSES):
        model(images)
    torch.cuda.synchronize()
    return PASSES * len(images)


def replay(run: FastCuda) -> int:
    """Replay the graph of a whole batch `PASSES` times, on the pixels on the device; the number of images."""
    with run.order, torch.cuda.stream(run.computing):
        for _ in range(PASSES):
            run.graphs[run.batch_size].replay()
    run.computing.synchronize()
    return PASSES * run.batch_size


def feed(labeller: Callable[[np.ndarray], object], image_NHWC: np.ndarray, calls: int, threads: int) -> int:
    """Label the images in `calls` calls from `threads` threads; the number of images."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(labeller, [image_NHWC] * calls))
    return calls * len(image_NHWC)


def _repeat_on(model: Callable[[Tensor], object], images: Tensor) -> Work:
    return lambda: repeat(model, images)


def _replay_of(run: FastCuda) -> Work:
    run.forget_spoiler()
    return lambda: replay(run)


def _feed_plain(run: PlainCuda, image_NHWC: np.ndarray) -> Work:
    return lambda: feed(run, image_NHWC, 4, 2)


def _autocast(model: Callable[[Tensor], object], image_NCHW: Tensor, dtype: torch.dtype) -> Work:
    def work() -> int:
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            return repeat(model, image_NCHW)
    return work


def load_timm(state: Mapping[str, Tensor]) -> Any:
    """timm's network with these weights, on the device."""
    import timm
    model = timm.create_model("inception_v4", num_classes=len(state["last_linear.weight"]))
    model.load_state_dict(state, strict=False)
    return model.eval().requires_grad_(False).cuda().to(memory_format=torch.channels_last)


def _normalise(device_NHWC: Tensor) -> Tensor:
    """uint8 [N, 299, 299, 3] -> float32 [N, 3, 299, 299] in channels_last, the input of timm."""
    assert device_NHWC.shape[1:] == (INPUT_SIZE, INPUT_SIZE, 3)
    return (device_NHWC.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
