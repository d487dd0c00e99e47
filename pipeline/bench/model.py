"""Benchmark part `model`: decoded images -> answers, on this machine's processor.

Ours is the whole labeller: uint8 pixels in, top-5 and embeddings out. The rivals get normalised float tensors and give
logits. All have the same weights and threads. All but timm as shipped compute in the precision of the job on this
processor: bf16 where the processor has it, else fp32, because emulated bf16 is a sixth as fast.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import numpy as np
import torch

from pipeline.bench.measure import Part, Setting, race, ratio, show
from pipeline.images.decode import decode
from pipeline.model import weights
from pipeline.model.spec import INPUT_SIZE, MEAN, STD
from pipeline.runners.labeller import Labeller
from pipeline.runners.precision import resolve_precision

BATCH = 32
OURS, EAGER, OPENVINO = "ours", "timm eager fp32", "OpenVINO"


def measure(setting: Setting) -> Part:
    """Ratios `model_vs_timm_eager`, `model_vs_openvino_bf16`; the figures name the precision."""
    image_NHWC = decode_photos(setting.photos, BATCH)
    state = weights.load(weights.identify("seed:0"))
    precision = resolve_precision("auto", "cpu")
    rates = race(_rivals(state, image_NHWC, precision), setting.repeats)
    show(f"model, {os.cpu_count()} CPUs, {precision}, batch {BATCH}", rates, OURS)
    part = Part({"model_vs_timm_eager": ratio(rates[OURS], rates[EAGER])}, {"model": {"precision": precision, **rates}})
    part.ratios["model_vs_openvino_bf16"] = ratio(rates[OURS], rates[OPENVINO])
    return part


def decode_photos(photos: list[bytes], number: int) -> np.ndarray:
    """The first `number` photographs as uint8 [number, 299, 299, 3]. Fewer photographs are repeated."""
    image_NHWC = np.empty((number, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    for index, slot_HWC in enumerate(image_NHWC):
        decode(photos[index % len(photos)], slot_HWC, max_pixels=10**9, max_bytes=10**9)
    return image_NHWC


def make_labeller(state: dict[str, torch.Tensor]) -> Labeller:
    """The labeller of the job on this machine, with all cores."""
    return Labeller(state, "cpu", resolve_precision("auto", "cpu"), os.cpu_count())


def _rivals(state: dict[str, torch.Tensor], image_NHWC: np.ndarray, precision: str) -> dict[str, Callable[[], int]]:
    import openvino
    import timm
    half = precision == "bf16"
    image_NCHW = (torch.from_numpy(image_NHWC).permute(0, 3, 1, 2).contiguous().float() / 255 - MEAN) / STD
    last_NCHW = image_NCHW.contiguous(memory_format=torch.channels_last)
    eager, last = (timm.create_model("inception_v4") for _ in range(2))
    for model in (eager, last):
        model.load_state_dict(state, strict=False)
        model.eval().requires_grad_(False)
    last.to(memory_format=torch.channels_last)
    ours = make_labeller(state)

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32", "PERFORMANCE_HINT": "THROUGHPUT",
                              "INFERENCE_NUM_THREADS": os.cpu_count(), "NUM_STREAMS": 1})
    converted = openvino.convert_model(eager, example_input=image_NCHW[:1], input=[(BATCH, 3, INPUT_SIZE, INPUT_SIZE)])
    compiled = core.compile_model(converted, "CPU")
    request = compiled.create_infer_request()
    image = image_NCHW.numpy()

    @torch.inference_mode()
    def run_eager() -> int:
        return len(eager(image_NCHW))

    @torch.inference_mode()
    def run_channels_last() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return len(last(last_NCHW))

    autocast = "autocast bf16" if half else "fp32"
    rivals: dict[str, Callable[[], int]] = {
        OURS: lambda: len(ours(image_NHWC)),
        EAGER: run_eager,
        f"timm channels_last, {autocast}": run_channels_last,
        OPENVINO: lambda: len(request.infer({0: image})[0]),
    }
    if shutil.which("c++") or shutil.which("g++"):
        compiled_timm = torch.compile(last)

        @torch.inference_mode()
        def run_compiled() -> int:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return len(compiled_timm(last_NCHW))
        rivals[f"timm, torch.compile, {autocast}"] = run_compiled
    else:
        print("timm, torch.compile: left out, there is no C++ compiler here")
    return rivals
