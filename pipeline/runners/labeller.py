"""The labeller: pixels in, answers out.

In: uint8 NHWC images, already resized and cropped, and the weights' state dict.
Out: for each image its best five classes, their probabilities, and its embedding, all in one row of one array.
Not here: decoding, rows and tables, class names, answers that are not finite (`table.py` makes rows of them).

One nn.Module (`folded.py`) does it all: the convolutions run in the asked precision with BatchNorm folded in; the mean
over places, the head and softmax run in float32. `on_cpu.py` or `on_cuda.py` brings the images to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model.spec import INPUT_SIZE, TOP_K
from pipeline.runners.folded import UintNetwork
from pipeline.runners.on_cpu import IN_CACHE, OnCpu
from pipeline.runners.on_cuda import FastCuda, PlainCuda
from pipeline.runners.probe import choose_runner

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> str:
    """`cuda` or `cpu`, for `auto`, `cuda` or `cpu`. Raises UserError for cuda where there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu or auto.")
    return ("cuda" if available else "cpu") if name == "auto" else name


def need_cuda() -> None:
    """Raise UserError if this process sees no CUDA device."""
    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError("--device cuda: this process was given a GPU and torch finds none; CUDA_VISIBLE_DEVICES is "
                        f"{'not set' if visible is None else repr(visible)} here.")


def check_classes(state: Mapping[str, Tensor], classes: pa.Table) -> None:
    """Raise UserError unless the weights have one output for each of the classes."""
    num_outputs = len(state["last_linear.weight"])
    if num_outputs != classes.num_rows:
        raise UserError(f"--classes names {classes.num_rows} classes and --weights has {num_outputs}; "
                        "they must be of the same network.")


def check_runner(runner: str, device: str) -> None:
    """Raise UserError if the device, `cuda` or `cpu`, has no such runner."""
    if runner == "fast" and device == "cpu":
        raise UserError("--runner fast: the fast runner needs a CUDA device; use --runner auto.")


class Labeller:
    """Labels batches on one device. Thread safe: two to four calls at a time keep the device busy between batches.

    Args:
        state: the state dict that `weights.load` returns; not changed, and not kept.
        device: `cuda` or `cpu`, from `resolve_device`.
        precision: `fp32`, `bf16` or `fp16`, from `precision.resolve_precision`.
        num_threads: on CPU, how many work; None: as many as torch would use.
        batch_size: on CUDA, the most images that it takes at once; None: by the device. Halved until it fits there.
        runner: `auto`, `fast` or `plain`; see `probe.py`. On CPU there is one runner.

    Raises:
        UserError: no CUDA device in this process; the fast runner where it is not trusted, or on CPU.

    Attributes:
        precision: as given.
        runner: `cpu`, `fast` or `plain`; runner_note: why it is the plain one, in one sentence, or "".
        num_top: classes in an answer, k: 5, or the number of classes if that is less.
        batch_size: images of the largest batch that the device takes at once.
    """

    def __init__(self, state: Mapping[str, Tensor], device: str, precision: str, num_threads: int | None = None,
                 batch_size: int | None = None, runner: str = "auto") -> None:
        self.precision = precision
        self.num_top = min(TOP_K, len(state["last_linear.weight"]))
        self.runner_note = ""
        self.run: OnCpu | PlainCuda | FastCuda
        check_runner(runner, device)
        if device == "cuda":
            need_cuda()
            self.run, self.runner_note = choose_runner(state, DTYPES[precision], self.num_top, batch_size, runner)
            self.runner, self.batch_size = self.run.name, self.run.batch_size
        else:
            self.run = OnCpu(UintNetwork(state, DTYPES[precision], self.num_top), num_threads or torch.get_num_threads())
            self.runner, self.batch_size = "cpu", IN_CACHE * self.run.num_threads

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        """The answers for uint8 images [N, 299, 299, 3], in their order; N may be 0 or more than `batch_size`.

        Returns:
            float32 [N, 2k + 1536]: k label_ids, best first; their probabilities; the embedding. Whatever the image, it
            is a row: where half precision is too small for it, a row that is not finite.

        Raises:
            ValueError: images of another shape or type.
        """
        if image_NHWC.dtype != np.uint8 or image_NHWC.shape[1:] != (INPUT_SIZE, INPUT_SIZE, 3):
            raise ValueError(f"images are {image_NHWC.dtype} {image_NHWC.shape}, "
                             f"not uint8 (N, {INPUT_SIZE}, {INPUT_SIZE}, 3)")
        return self.run(image_NHWC)

    def slots_for(self, num_images: int) -> int:
        """Places in the device's batches for a call of so many images: on CUDA some may be padding."""
        return num_images if isinstance(self.run, OnCpu) else self.run.slots_for(num_images)
