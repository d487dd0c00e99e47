"""The labeller: pixels in, answers out.

In: uint8 NHWC images, already resized and cropped, and the weights' state dict.
Out: for each image its best five classes, their probabilities, and its embedding.
Not here: decoding, rows and tables, class names.

One nn.Module does it all. The convolutions run in the asked precision with BatchNorm folded in; the mean over
places, the head and softmax run in float32. CPU and GPU go the same way: one copy in, one copy out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.config import UserError
from pipeline.inception_v4 import INPUT_SIZE, MEAN, STD, Conv, InceptionA, InceptionB, InceptionC, InceptionV4

TOP = 5  # classes in an answer
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ONEDNN: dict[torch.dtype, Callable[[], bool]] = {  # whether the CPU library that torch uses for convolutions takes the type on this processor
    torch.float32: torch.backends.mkldnn.is_available,
    torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
    torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
}


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
    """Labels batches on one device.

    Args:
        state: the state dict that `weights.load` returns; not changed, and not kept.
        device: `cuda` or `cpu`, from `resolve_device`.
        precision: `fp32`, `bf16` or `fp16`, from `resolve_precision`.
        num_threads: of torch's CPU work, for the whole process; None leaves torch's own number.
    """

    def __init__(self, state: Mapping[str, Tensor], device: str, precision: str,
                 num_threads: int | None = None) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        if device == "cuda":
            torch.backends.cudnn.benchmark = True  # batches have one shape, but for the last
            if precision == "fp32":
                torch.backends.cudnn.allow_tf32 = False  # TF32 has the 10 bits of fp16
        self.device = torch.device(device)
        self.precision = precision
        self.num_top = min(TOP, len(state["last_linear.weight"]))
        self.network = UintNetwork(state, DTYPES[precision], self.num_top).to(self.device)

    def __call__(self, image_NHWC: np.ndarray) -> Answers:
        """The answers for uint8 images [N, 299, 299, 3], in their order.

        Raises:
            ValueError: images of another shape or type.
            UserError: an answer is not finite, since fp16 ends at 65,504.
        """
        if image_NHWC.dtype != np.uint8 or image_NHWC.shape[1:] != (INPUT_SIZE, INPUT_SIZE, 3):
            raise ValueError(f"images are {image_NHWC.dtype} {image_NHWC.shape}, "
                             f"not uint8 (N, {INPUT_SIZE}, {INPUT_SIZE}, 3)")
        on_gpu = self.device.type == "cuda"
        host_NHWC = torch.empty(image_NHWC.shape, dtype=torch.uint8, pin_memory=on_gpu)
        np.copyto(host_NHWC.numpy(), image_NHWC)
        with torch.inference_mode():
            answer_NK = self.network(host_NHWC.to(self.device, non_blocking=on_gpu)).cpu().numpy()
        if not np.isfinite(answer_NK).all():
            raise UserError(f"--precision {self.precision}: the network gives numbers that are not finite for these "
                            "weights or images; use fp32.")
        k = self.num_top
        return Answers(answer_NK[:, :k].astype(np.int16), answer_NK[:, k:2 * k].copy(), answer_NK[:, 2 * k:].copy())


class UintNetwork(nn.Module):
    """Inception-v4 from uint8 pixels to answers, BatchNorm folded, for inference only."""

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype, num_top: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.num_top = num_top
        with torch.device("meta"):
            network = InceptionV4(len(state["last_linear.weight"]))
        network.load_state_dict(state, strict=False, assign=True)  # `weights.load` has checked the names
        fold_batch_norms(network, dtype)
        self.features = network.features
        self.last_linear = network.last_linear
        self.requires_grad_(False).eval()

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """uint8 [N, 299, 299, 3] -> float32 [N, 2k + 1536]: k label_ids, their k probabilities, the embedding.

        All in one tensor, so that one copy brings it back; float32 holds any label_id.
        """
        # Permuted, NHWC is channels_last: no copy. Centred on 127.5, pixels are exact in bf16 and fp16; the scale
        # that is missing is in the first convolution.
        image_NCHW = image_NHWC.permute(0, 3, 1, 2).to(self.dtype) - 255 * MEAN
        embedding_ND = self.features(image_NCHW).mean((2, 3), dtype=torch.float32)
        prob_NK, label_id_NK = self.last_linear(embedding_ND).softmax(1).topk(self.num_top)
        return torch.cat((label_id_NK.float(), prob_NK, embedding_ND), 1)


class FoldedConv(nn.Module):
    """A `Conv` with its BatchNorm folded into weights and bias; `relu` may be left to who comes after.

    Folded in float64, so that the weights are rounded once. On CPU it calls oneDNN's convolution with the ReLU
    inside and with weights that were put in oneDNN's own order at the first batch: 5 to 10 % faster than
    conv2d and relu (with the poolings moved, see `fold_batch_norms`).
    """

    def __init__(self, layer: Conv, dtype: torch.dtype, input_scale: float) -> None:
        super().__init__()
        conv, bn = layer.conv, layer.bn
        assert bn.running_mean is not None and bn.running_var is not None
        scale_C = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
        weight_OIHW = conv.weight.double() * scale_C[:, None, None, None] * input_scale
        self.weight = nn.Parameter(weight_OIHW.to(dtype).contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter((bn.bias.double() - bn.running_mean.double() * scale_C).to(dtype))
        self.stride, self.padding = tuple(conv.stride), tuple(int(p) for p in conv.padding)
        self.relu = True
        self.packed: Tensor | None = None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if x_NCHW.device.type == "cpu" and ONEDNN[x_NCHW.dtype]():
            if self.packed is None:
                self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                    self.weight, self.padding, self.stride, (1, 1), 1, x_NCHW.shape)
            return torch.ops.mkldnn._convolution_pointwise(
                x_NCHW, self.packed, self.bias, self.padding, self.stride, (1, 1), 1,
                "relu" if self.relu else "none", [], "")
        y_NCHW = torch.conv2d(x_NCHW, self.weight, self.bias, self.stride, self.padding)
        return torch.relu_(y_NCHW) if self.relu else y_NCHW


def fold_batch_norms(network: InceptionV4, dtype: torch.dtype) -> None:
    """Replace each `Conv` by a `FoldedConv` of `dtype`; the first also takes pixels - 127.5, not normalised ones.

    The blocks' average pools move behind their convolutions of 1 x 1: the two commute, and there are a third to a
    sixth of the channels there. ReLU stays last.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Conv):
            network.set_submodule(name, FoldedConv(layer, dtype, 1 / (255 * STD) if name == "features.0" else 1))
    for block in network.features:
        if isinstance(block, InceptionA | InceptionB | InceptionC):
            pool, conv = block.branch3
            assert isinstance(conv, FoldedConv)
            conv.relu = False
            block.branch3 = nn.Sequential(conv, pool, nn.ReLU(inplace=True))
    left = [name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert not left, f"not folded: {left}"
