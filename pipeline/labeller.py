"""The labeller: pixels in, answers out.

In: uint8 NHWC images, already resized and cropped, and the weights' state dict.
Out: for each image its best five classes, their probabilities, and its embedding.
Not here: decoding, rows and tables, class names.

One nn.Module (`folded.py`) does it all: the convolutions run in the asked precision with BatchNorm folded in; the mean
over places, the head and softmax run in float32. `runners.py` brings the images to it, on a CPU or a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.config import UserError
from pipeline.folded import ONEDNN, UintNetwork
from pipeline.inception_v4 import INPUT_SIZE
from pipeline.runners import OnCpu, OnCuda

TOP = 5  # classes in an answer
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Answers(NamedTuple):
    """What the network says of N images; k is 5, or the number of classes if that is less. Best first."""

    label_id: np.ndarray  # int16 [N, k]
    prob: np.ndarray  # float32 [N, k]
    embedding: np.ndarray  # float32 [N, 1536]


def resolve_device(name: str) -> str:
    """`cuda` or `cpu`, for `auto`, `cuda` or `cpu`. Raises UserError for cuda where there is none."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu or auto.")
    return ("cuda" if available else "cpu") if name == "auto" else name


def resolve_precision(name: str, device: str) -> str:
    """`fp32`, `bf16` or `fp16`, for one of these or `auto`, on device `cuda` or `cpu`.

    auto on CPU is bf16 where the processor computes in it, otherwise fp32. On CUDA it is fp16: as fast as bf16, with
    three bits more. Median error of the logits against fp32, folded: fp16 0.018, bf16 0.047.

    Raises:
        UserError: a precision the device does not compute in.
    """
    if device == "cuda":
        if name == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise UserError("--precision bf16: this GPU does not compute in bf16; use fp16, fp32 or auto.")
        return "fp16" if name == "auto" else name
    if name == "fp16" and not ONEDNN[torch.float16]():
        raise UserError("--precision fp16: this processor does not compute in fp16; use bf16, fp32 or auto.")
    if name == "auto":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if native else "fp32"
    return name


def check_classes(state: Mapping[str, Tensor], classes: pa.Table) -> None:
    """Raise UserError unless the weights have one output for each of the classes."""
    num_outputs = len(state["last_linear.weight"])
    if num_outputs != classes.num_rows:
        raise UserError(f"--classes names {classes.num_rows} classes and --weights has {num_outputs}; "
                        "they must be of the same network.")


class Labeller:
    """Labels batches on one device. Thread safe: two calls at a time keep the device busy between batches.

    Args:
        state: the state dict that `weights.load` returns; not changed, and not kept.
        device: `cuda` or `cpu`, from `resolve_device`.
        precision: `fp32`, `bf16` or `fp16`, from `resolve_precision`.
        num_threads: on CPU, how many work; None: as many as torch would use.
        batch_size: on CUDA, the fixed size that the network is captured at; other batches are padded or cut.
    """

    def __init__(self, state: Mapping[str, Tensor], device: str, precision: str, num_threads: int | None = None,
                 batch_size: int = 256) -> None:
        self.precision = precision
        self.num_top = min(TOP, len(state["last_linear.weight"]))
        network = UintNetwork(state, DTYPES[precision], self.num_top)
        self.run = (OnCuda(network, batch_size) if device == "cuda" else
                    OnCpu(network, num_threads or torch.get_num_threads()))

    def __call__(self, image_NHWC: np.ndarray) -> Answers:
        """The answers for uint8 images [N, 299, 299, 3], in their order.

        Raises:
            ValueError: images of another shape or type.
            UserError: an answer is not finite, since fp16 ends at 65,504.
        """
        if image_NHWC.dtype != np.uint8 or image_NHWC.shape[1:] != (INPUT_SIZE, INPUT_SIZE, 3):
            raise ValueError(f"images are {image_NHWC.dtype} {image_NHWC.shape}, "
                             f"not uint8 (N, {INPUT_SIZE}, {INPUT_SIZE}, 3)")
        answer_NK = self.run(image_NHWC)
        if not np.isfinite(answer_NK).all():
            raise UserError(f"--precision {self.precision}: the network gives numbers that are not finite for these "
                            "weights or images; use fp32.")
        k = self.num_top
        return Answers(answer_NK[:, :k].astype(np.int16), answer_NK[:, k:2 * k].copy(), answer_NK[:, 2 * k:].copy())
