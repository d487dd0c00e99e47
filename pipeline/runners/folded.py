"""The network in the form in which it labels: uint8 pixels in, answers out, BatchNorm folded into the convolutions.

In: the state dict of the weights. Out: an nn.Module for inference only. Its one output tensor has all answers.
Not here: devices, threads, copies (`on_cpu.py`, `on_cuda.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.model.inception_v4 import Conv, InceptionA, InceptionB, InceptionC, InceptionV4
from pipeline.model.spec import EMBEDDING_SIZE, MEAN, STD

PLACE_BITS = 16  # a label_id has at most 15 bits: it is an int16
LARGEST_MAP = 147 * 147 * 64  # most values between two layers for one image

# Whether oneDNN, which torch uses for convolutions on a CPU, computes in the type on this processor.
ONEDNN_COMPUTES_IN: dict[torch.dtype, Callable[[], bool]] = {
    torch.float32: torch.backends.mkldnn.is_available,
    torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
    torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
}


class UintNetwork(nn.Module):
    """Inception-v4 from uint8 pixels to answers, with BatchNorm folded. `num_top` is k, the classes in an answer."""

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype, num_top: int) -> None:
        super().__init__()
        self.dtype = dtype
        self.num_top = num_top
        self.answer_size = 2 * num_top + EMBEDDING_SIZE
        with torch.device("meta"):
            network = InceptionV4(len(state["last_linear.weight"]))
        network.load_state_dict(state, strict=False, assign=True)  # `weights.load` checked the names
        fold_batch_norms(network, dtype)
        self.features = network.features
        self.last_linear = network.last_linear
        self.requires_grad_(False).eval()

    def forward(self, image_NHWC: Tensor) -> Tensor:
        """uint8 [N, 299, 299, 3] -> float32 [N, 2k + 1536]: k label_ids, their k probabilities, the embedding.

        All answers are in one tensor, so one copy brings them to the host. float32 can hold any label_id.
        """
        # Permuted NHWC is channels_last already: no copy. Pixels minus 127.5 are exact in bf16 and fp16. The weights of
        # the first convolution contain the scale that is missing here.
        image_NCHW = image_NHWC.permute(0, 3, 1, 2).to(self.dtype) - 255 * MEAN
        return self.answer(self.features(image_NCHW))

    def answer(self, features_NCHW: Tensor) -> Tensor:
        """The last block's output [N, 1536, 8, 8] -> answers, as of `forward`."""
        embedding_ND = features_NCHW.mean((2, 3), dtype=torch.float32)
        prob_NK, label_id_NK = top_k(self.last_linear(embedding_ND).softmax(1), self.num_top)
        return torch.cat((label_id_NK.float(), prob_NK, embedding_ND), 1)


def top_k(prob_NC: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The largest probabilities of each row, float32, and their places, int64, both [N, number].

    Of equal probabilities the first place comes first; `torch.topk` promises no order there. The bits of floats >= 0,
    read as integers, have the same order as the floats. With the place in the lower bits no two keys are equal.
    """
    key_NC = prob_NC.view(torch.int32).long() << PLACE_BITS
    place_NK = (key_NC - torch.arange(prob_NC.shape[1], device=prob_NC.device)).topk(number).indices
    return prob_NC.gather(1, place_NK), place_NK


class FoldedConv(nn.Module):
    """A `Conv` with its BatchNorm folded into weight and bias.

    The folding is done in float64, so that the weights are rounded once. If `relu` is False, a later layer applies
    ReLU.

    On a CPU this calls oneDNN's convolution, which includes the ReLU. The first batch puts the weights into oneDNN's
    own order. Together with the moved poolings (`fold_batch_norms`) that is 5 to 10 % faster than conv2d and relu. On
    CUDA it calls conv2d and relu, or both in one pass after `fuse_layers`.
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
            return torch.cudnn_convolution_add_relu(
                x_NCHW, self.weight, self._zeros_like_output(x_NCHW, self.zeros), 1, self.bias, self.stride,
                self.padding, (1, 1), 1)
        if x_NCHW.device.type == "cpu" and ONEDNN_COMPUTES_IN[x_NCHW.dtype]():
            if self.packed is None:
                self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                    self.weight, self.padding, self.stride, (1, 1), 1, x_NCHW.shape)
            pointwise_NCHW: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x_NCHW, self.packed, self.bias, self.padding, self.stride, (1, 1), 1,
                "relu" if self.relu else "none", [], "")
            return pointwise_NCHW
        y_NCHW = torch.conv2d(x_NCHW, self.weight, self.bias, self.stride, self.padding)
        return torch.relu_(y_NCHW) if self.relu else y_NCHW

    def _zeros_like_output(self, x_NCHW: Tensor, zeros: Tensor) -> Tensor:
        """Zeros in the shape of the output, channels_last: a view of `zeros`, no copy."""
        height, width = ((size + 2 * padding - kernel) // stride + 1 for size, padding, kernel, stride in
                         zip(x_NCHW.shape[2:], self.padding, self.weight.shape[2:], self.stride, strict=True))
        shape_NHWC = (len(x_NCHW), height, width, len(self.weight))
        return zeros[:math.prod(shape_NHWC)].view(shape_NHWC).permute(0, 3, 1, 2)


def fuse_layers(network: nn.Module, zeros: Tensor) -> None:
    """Let cuDNN compute convolution, bias and ReLU in one pass, from now on.

    cuDNN's pass always adds an addend to the convolution. `torch.cudnn_convolution_relu` takes the memory of the output
    for the addend, with the factor 0. That memory is not yet written: where it holds NaN, the result can be NaN or 0.
    So this module gives zeros as the addend.

    Args:
        network: on the device, in half precision. For fp32 without TF32 cuDNN may have no such pass.
        zeros: [batch size x LARGEST_MAP], of the network's type and on its device. All layers read it.
    """
    for layer in network.modules():
        if isinstance(layer, FoldedConv):
            layer.zeros = zeros


def fold_batch_norms(network: InceptionV4, dtype: torch.dtype) -> None:
    """Replace each `Conv` by a `FoldedConv` of `dtype`. The first one then takes pixels - 127.5, not normalised pixels.

    The average pool of a block moves behind its convolution of 1 x 1. The two commute, and behind the convolution there
    are only a third to a sixth of the channels. ReLU stays last.
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
    not_folded = [name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert not not_folded, f"not folded: {not_folded}"


class MaxPool(nn.Module):
    """`nn.MaxPool2d(3, 2)` for numbers >= 0. On a CPU it is twice as fast.

    It takes the maximum over rows, then over columns. It reads half precision as int16: of two numbers >= 0 the larger
    one has the larger bits.
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
