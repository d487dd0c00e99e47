"""The network as it is run: from uint8 pixels to answers, BatchNorm folded, for inference only.

In: the weights' state dict. Out: an nn.Module whose one output tensor holds all answers.
Not here: devices, threads, copies (`on_cpu.py`, `on_cuda.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.model.inception_v4 import Conv, InceptionA, InceptionB, InceptionC, InceptionV4
from pipeline.model.spec import EMBEDDING_SIZE, MEAN, STD

PLACE_BITS = 16  # a class's number has at most 15: it is an int16
LARGEST_MAP = 147 * 147 * 64  # values between two layers, for an image

# Whether the CPU library that torch uses for convolutions takes the type on this processor.
ONEDNN: dict[torch.dtype, Callable[[], bool]] = {
    torch.float32: torch.backends.mkldnn.is_available,
    torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
    torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
}


class UintNetwork(nn.Module):
    """Inception-v4 from uint8 pixels to answers, BatchNorm folded, for inference only."""

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype, num_top: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.num_top = num_top
        self.answer_size = 2 * num_top + EMBEDDING_SIZE
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
        prob_NK, label_id_NK = top_k(self.last_linear(embedding_ND).softmax(1), self.num_top)
        return torch.cat((label_id_NK.float(), prob_NK, embedding_ND), 1)


def top_k(prob_NC: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The largest probabilities (float32) of each row and their places, both [N, number]; of equal ones the first place comes first.

    `topk` promises no order of equal values. The bits of numbers >= 0 are in the numbers' order: with the place behind them no two are equal.
    """
    bits_NC = prob_NC.view(torch.int32).long() << PLACE_BITS
    place_NK = (bits_NC - torch.arange(prob_NC.shape[1], device=prob_NC.device)).topk(number).indices
    return prob_NC.gather(1, place_NK), place_NK


class FoldedConv(nn.Module):
    """A `Conv` with its BatchNorm folded into weights and bias; `relu` may be left to who comes after.

    Folded in float64, so that the weights are rounded once. On CPU it calls oneDNN's convolution with the ReLU
    inside and with weights that were put in oneDNN's own order at the first batch: 5 to 10 % faster than
    conv2d and relu (with the poolings moved, see `fold_batch_norms`). On CUDA it is conv2d and relu, or the two in one
    pass once `fuse` has been called.
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
        self.zeros: Tensor | None = None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if self.zeros is not None and self.relu:
            return torch.cudnn_convolution_add_relu(x_NCHW, self.weight, self._addend(x_NCHW, self.zeros), 1, self.bias,
                                                    self.stride, self.padding, (1, 1), 1)
        if x_NCHW.device.type == "cpu" and ONEDNN[x_NCHW.dtype]():
            if self.packed is None:
                self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                    self.weight, self.padding, self.stride, (1, 1), 1, x_NCHW.shape)
            return torch.ops.mkldnn._convolution_pointwise(
                x_NCHW, self.packed, self.bias, self.padding, self.stride, (1, 1), 1,
                "relu" if self.relu else "none", [], "")
        y_NCHW = torch.conv2d(x_NCHW, self.weight, self.bias, self.stride, self.padding)
        return torch.relu_(y_NCHW) if self.relu else y_NCHW

    def _addend(self, x_NCHW: Tensor, zeros: Tensor) -> Tensor:
        """Zeros of the output's shape, channels_last: a view, no copy."""
        height, width = ((size + 2 * padding - kernel) // stride + 1 for size, padding, kernel, stride in
                         zip(x_NCHW.shape[2:], self.padding, self.weight.shape[2:], self.stride, strict=True))
        shape_NHWC = (len(x_NCHW), height, width, len(self.weight))
        return zeros[:math.prod(shape_NHWC)].view(shape_NHWC).permute(0, 3, 1, 2)


def fuse_layers(network: nn.Module, zeros: Tensor) -> None:
    """Let cuDNN compute convolution, bias and ReLU in one pass, from now on.

    cuDNN has only the sum of a convolution and an addend in one pass. `torch.cudnn_convolution_relu` gives it the
    output's own memory as the addend, which nobody has written, and 0 as its factor: what is NaN there can come out
    as NaN, or as 0. Here the addend is zeros.

    Args:
        network: on the device, in half precision: for fp32 without TF32 cuDNN may have no such pass.
        zeros: [batch size x LARGEST_MAP], of the network's type and on its device; all layers read it.
    """
    for layer in network.modules():
        if isinstance(layer, FoldedConv):
            layer.zeros = zeros


def fold_batch_norms(network: InceptionV4, dtype: torch.dtype) -> None:
    """Replace each `Conv` by a `FoldedConv` of `dtype`; the first also takes pixels - 127.5, not normalised ones.

    The blocks' average pools move behind their convolutions of 1 x 1: the two commute, and there are a third to a
    sixth of the channels there. ReLU stays last.
    """
    for name, layer in list(network.named_modules()):
        if isinstance(layer, Conv):
            network.set_submodule(name, FoldedConv(layer, dtype, 1 / (255 * STD) if name == "features.0" else 1))
        elif isinstance(layer, nn.MaxPool2d):
            network.set_submodule(name, MaxPool())
    for block in network.features:
        if isinstance(block, InceptionA | InceptionB | InceptionC):
            pool, conv = block.branch3
            assert isinstance(conv, FoldedConv)
            conv.relu = False
            block.branch3 = nn.Sequential(conv, pool, nn.ReLU(inplace=True))
    left = [name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert not left, f"not folded: {left}"


class MaxPool(nn.Module):
    """`nn.MaxPool2d(3, 2)` of numbers >= 0, twice as fast on CPU: by rows, then by columns, half precision as int16.

    Of numbers that are not negative the larger one has the larger bits.
    """

    def forward(self, x_NCHW: Tensor) -> Tensor:
        if x_NCHW.device.type != "cpu" or x_NCHW.element_size() != 2:
            return torch.max_pool2d(x_NCHW, 3, 2)
        x_NHWC = x_NCHW.permute(0, 2, 3, 1).view(torch.int16)
        height, width = ((size - 1) // 2 for size in x_NHWC.shape[1:3])
        above, middle, below = (x_NHWC[:, at:at + 2 * height - 1:2] for at in range(3))
        rows_NHWC = torch.maximum(torch.maximum(above, middle), below)
        left, centre, right = (rows_NHWC[:, :, at:at + 2 * width - 1:2] for at in range(3))
        return torch.maximum(torch.maximum(left, centre), right).view(x_NCHW.dtype).permute(0, 3, 1, 2)
