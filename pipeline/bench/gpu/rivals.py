"""Those who run in benchmark part `gpu`: ours in several ways, timm, torch.compile, TensorRT, each on the same batch.

In: weights, and images. Out: by name, functions that label batches and return how many images that were.
All compute on batches that are already on the device; those that are `fed` take them from host memory, as the job does.
Not here: the table, the whole job (`gpu.py`).
"""

from __future__ import annotations

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

PASSES = 10  # batches in a turn

Work = Callable[[], int]


def builders(state: Mapping[str, Tensor], labeller: Labeller, image_NHWC: np.ndarray) -> dict[str, Callable[[], Work]]:
    """By name, what makes a rival ready. `image_NHWC`: uint8 [M, 299, 299, 3], M a multiple of the batch size."""
    size, dtype = labeller.batch_size, DTYPES[labeller.precision]
    run = labeller.run
    device_NHWC = torch.tensor(image_NHWC[:size], device="cuda")

    def network() -> UintNetwork:
        return UintNetwork(state, dtype, labeller.num_top).cuda()

    def half_timm() -> Work:
        import torch_tensorrt
        model = _timm(state).half()
        images_NCHW = _normalised(device_NHWC).half()
        engine = torch_tensorrt.compile(model, ir="dynamo", inputs=[images_NCHW], enabled_precisions={torch.half})
        return lambda: passes(engine, images_NCHW)

    found: dict[str, Callable[[], Work]] = {
        PLAIN: lambda: _of(network(), device_NHWC),
        EAGER: lambda: _autocast(_timm(state), _normalised(device_NHWC), dtype),
        COMPILED: lambda: _autocast(torch.compile(_timm(state)), _normalised(device_NHWC), dtype),
        OURS_COMPILED: lambda: _of(torch.compile(network()), device_NHWC),
        TENSORRT: half_timm,
        FED_2: lambda: lambda: fed(labeller, image_NHWC, 4, 2),
        FED_3: lambda: lambda: fed(labeller, image_NHWC, 6, 3),
    }
    if isinstance(run, FastCuda):
        found = {FAST: lambda: lambda: replay(run)} | found
        found[FED_PLAIN] = lambda: _fed_plain(PlainCuda(network(), size), image_NHWC)
        if dtype != torch.float32:
            found[UNFUSED] = lambda: _replayed(FastCuda(network(), size, fused=False))
    return found


def ready(makers: Mapping[str, Callable[[], Work]], repeats: int) -> dict[str, list[float]]:
    """Make the rivals ready, and race those that work: images a second of each, one figure a round.

    Each one that fails, when it is made or later, is told with its reason and left out.
    """
    failed: set[str] = set()
    rivals: dict[str, Work] = {}

    def guarded(name: str, work: Work) -> Work:
        def turn() -> int:
            return 0 if name in failed else attempt(name, work, failed) or 0
        return turn

    for name, make in makers.items():
        begun = time.perf_counter()
        work = attempt(name, make, failed)
        if work is not None and attempt(name, work, failed):
            rivals[name] = guarded(name, work)
            print(f"  {name}: ready after {time.perf_counter() - begun:.1f} s", flush=True)
    rates = race(rivals, repeats)
    return {name: values for name, values in rates.items() if name not in failed}


def attempt(name: str, work: Callable[[], Any], failed: set[str]) -> Any:
    """What `work` returns, or None, with a word, where it fails."""
    try:
        return work()
    except ModuleNotFoundError as error:
        print(f"  {name}: left out, {error.name} is not installed", flush=True)
    except Exception as error:  # noqa: BLE001  # a rival may fail in any way; the others are measured
        print(f"  {name}: failed, {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}", flush=True)
    failed.add(name)
    return None


@torch.inference_mode()
def passes(model: Callable[[Tensor], object], images: Tensor) -> int:
    """Let the model compute the batch some times; the number of images."""
    for _ in range(PASSES):
        model(images)
    torch.cuda.synchronize()
    return PASSES * len(images)


def replay(run: FastCuda) -> int:
    """Replay the graph of whole batches on what lies on the device; the number of images."""
    with run.order, torch.cuda.stream(run.computing):
        for _ in range(PASSES):
            run.graphs[run.batch_size].replay()
    run.computing.synchronize()
    return PASSES * run.batch_size


def fed(labeller: Callable[[np.ndarray], object], image_NHWC: np.ndarray, calls: int, threads: int) -> int:
    """Let some threads label the images, in so many calls; the number of images."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(labeller, [image_NHWC] * calls))
    return calls * len(image_NHWC)


def _of(model: Callable[[Tensor], object], images: Tensor) -> Work:
    return lambda: passes(model, images)


def _replayed(run: FastCuda) -> Work:
    run.forget_spoiler()
    return lambda: replay(run)


def _fed_plain(run: PlainCuda, image_NHWC: np.ndarray) -> Work:
    return lambda: fed(run, image_NHWC, 4, 2)


def _autocast(model: Callable[[Tensor], object], image_NCHW: Tensor, dtype: torch.dtype) -> Work:
    def work() -> int:
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            return passes(model, image_NCHW)
    return work


def _timm(state: Mapping[str, Tensor]) -> Any:
    import timm
    model = timm.create_model("inception_v4", num_classes=len(state["last_linear.weight"]))
    model.load_state_dict(state, strict=False)
    return model.eval().requires_grad_(False).cuda().to(memory_format=torch.channels_last)


def _normalised(device_NHWC: Tensor) -> Tensor:
    """float32 [N, 3, 299, 299], channels_last, as timm takes its images."""
    assert device_NHWC.shape[1:] == (INPUT_SIZE, INPUT_SIZE, 3)
    return (device_NHWC.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
