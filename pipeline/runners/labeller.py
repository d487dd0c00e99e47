"""The labeller: pixels in, answers out.

In: uint8 NHWC images, already resized and cropped; the state dict of the weights.
Out: one row of an array for each image: its best five classes, their probabilities, its embedding.
Not here: decoding; tables; names of classes; answers that are not finite (`tables/labels.py` makes rows of them).

One nn.Module (`folded.py`) computes all of it. The convolutions, with BatchNorm folded in, run in the chosen precision.
The mean over places, the head and softmax run in float32. `on_cpu.py`, `on_openvino.py` or `on_cuda.py` brings the
images to the module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model.spec import INPUT_SIZE, TOP_K
from pipeline.runners.checks import check_runner
from pipeline.runners.folded import UintNetwork
from pipeline.runners.on_cpu import IMAGES_IN_CACHE, OnCpu
from pipeline.runners.on_cuda import FastCuda, PlainCuda
from pipeline.runners.on_openvino import OnOpenVino
from pipeline.runners.probe import choose_runner
from pipeline.runners.probe_on_cpu import choose_cpu_runner

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> str:
    """`cuda` or `cpu`, for `auto`, `cuda` or `cpu`. Raises UserError for `cuda` if torch finds no CUDA device."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu or auto.")
    return ("cuda" if available else "cpu") if name == "auto" else name


def check_cuda() -> None:
    """Raise UserError unless this process sees a CUDA device."""
    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError("--device cuda: this process was given a GPU and torch finds none; CUDA_VISIBLE_DEVICES is "
                        f"{'not set' if visible is None else repr(visible)} here.")


class Labeller:
    """Labels batches on one device. Thread safe: two to four calls at a time keep the device busy between batches.

    Args:
        state: the state dict that `weights.load` returns. It is neither changed nor kept.
        device: `cuda` or `cpu`, from `resolve_device`.
        precision: `fp32`, `bf16` or `fp16`, from `precision.resolve_precision`.
        num_threads: on a CPU, the number of threads; None: torch's own number.
        batch_size: on CUDA, the most images at once; None: by the device. It is halved until the batch fits.
        runner: `auto`, `fast` or `plain` (see `probe.py` and `probe_on_cpu.py`).

    Raises:
        UserError: this process has no CUDA device; or `fast` was asked for, and is not there or not trusted here.

    Attributes:
        precision: as given.
        runner: on a CPU `cpu` or `openvino`, on CUDA `fast` or `plain`.
        runner_note: one sentence that says why another runner than the fast one is used, or "".
        num_top: classes in an answer, k: 5, or the number of classes if there are fewer.
        batch_size: images of the largest batch that the device takes at once.
    """

    def __init__(self, state: Mapping[str, Tensor], device: str, precision: str, num_threads: int | None = None,
                 batch_size: int | None = None, runner: str = "auto") -> None:
        self.precision = precision
        self.num_top = min(TOP_K, len(state["last_linear.weight"]))
        self.run: OnCpu | OnOpenVino | PlainCuda | FastCuda
        check_runner(runner, device)
        if device == "cuda":
            check_cuda()
            self.run, self.runner_note = choose_runner(
                state, DTYPES[precision], self.num_top, batch_size, runner)
            self.batch_size = self.run.batch_size
        else:
            self.run, self.runner_note = choose_cpu_runner(
                state, UintNetwork(state, DTYPES[precision], self.num_top), num_threads or torch.get_num_threads(),
                runner)
            self.batch_size = IMAGES_IN_CACHE * self.run.num_threads
        self.runner = self.run.name

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        """The answers for uint8 images [N, 299, 299, 3], in their order; N may be 0 or more than `batch_size`.

        Returns:
            float32 [N, 2k + 1536]: k label_ids, best first; their probabilities; the embedding. Every image has a row.
            If an answer is too large for half precision, the row is not finite.

        Raises:
            ValueError: images of another shape or type.
        """
        if image_NHWC.dtype != np.uint8 or image_NHWC.shape[1:] != (INPUT_SIZE, INPUT_SIZE, 3):
            raise ValueError(f"images are {image_NHWC.dtype} {image_NHWC.shape}, "
                             f"not uint8 (N, {INPUT_SIZE}, {INPUT_SIZE}, 3)")
        return self.run(image_NHWC)

    def slots_for(self, num_images: int) -> int:
        """The number of images that the device computes for a call with `num_images`: some may be padding."""
        return self.run.slots_for(num_images)
