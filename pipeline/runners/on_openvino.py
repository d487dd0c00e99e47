"""Runs the network on a CPU by OpenVINO, of the extra `openvino`.

In: uint8 images [N, 299, 299, 3]. Out: the network's tensor of answers, float32 [N, 2k + 1536].
Thread safe: at the end of a batch an idle core works for the next call.
Not here: what the network computes (`folded.py`); whether this runner is right and fast here (`probe_on_cpu.py`).

The layers are handed to OpenVINO one by one: its own converter traces the module for eight seconds, and reports its use
to its makers.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from pipeline.memory import keep_freed_memory
from pipeline.model.spec import INPUT_SIZE, MEAN
from pipeline.runners.folded import FoldedConv, MaxPool, UintNetwork
from pipeline.runners.on_cpu import IMAGES_IN_CACHE

HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}  # of the types in which it may compute


class OnOpenVino:
    """Runs the network on four images at a time on each core, as `OnCpu` does. No core waits for another.

    Raises:
        ImportError: OpenVINO is not installed.
        KeyError: the type of the network is none of `HINTS`.
        RuntimeError: from OpenVINO.
    """

    name = "openvino"

    def __init__(self, network: UintNetwork, num_threads: int) -> None:
        import openvino

        keep_freed_memory()
        self.network, self.num_threads = network, num_threads
        # Several actors of a node would all be pinned to the same first cores.
        options = {"INFERENCE_PRECISION_HINT": HINTS[network.dtype], "NUM_STREAMS": num_threads,
                   "INFERENCE_NUM_THREADS": num_threads, "ENABLE_CPU_PINNING": False}
        self.compiled = openvino.Core().compile_model(_translate(network.features), "CPU", options)
        self.of_thread = threading.local()
        self.pool = ThreadPoolExecutor(num_threads, "label", self._begin_thread)

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        starts = range(0, max(1, len(image_NHWC)), IMAGES_IN_CACHE)
        parts = [image_NHWC[at:at + IMAGES_IN_CACHE] for at in starts]
        return np.concatenate(list(self.pool.map(self._run, parts)))

    def slots_for(self, num_images: int) -> int:
        """As of `Labeller`: the last few images are padded."""
        return -(-num_images // IMAGES_IN_CACHE) * IMAGES_IN_CACHE

    def _begin_thread(self) -> None:
        torch.set_num_threads(1)
        self.of_thread.request = self.compiled.create_infer_request()

    def _run(self, image_NHWC: np.ndarray) -> np.ndarray:
        number = len(image_NHWC)
        if number < IMAGES_IN_CACHE:  # the shape is fixed
            image_NHWC = np.concatenate([image_NHWC, np.zeros_like(image_NHWC, shape=(
                IMAGES_IN_CACHE - number, *image_NHWC.shape[1:]))])
        features_NCHW = self.of_thread.request.infer({0: image_NHWC}, share_inputs=True, share_outputs=True)[0]
        with torch.inference_mode():
            answer_NK: np.ndarray = self.network.answer(torch.from_numpy(features_NCHW)).numpy()
        return answer_NK[:number]


class _Tracer(fx.Tracer):
    """Follows the data down to these layers."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, FoldedConv | MaxPool | nn.AvgPool2d | nn.ReLU)


def _translate(features: nn.Module) -> Any:
    """The layers from pixels to the last block's output [4, 1536, 8, 8], as a model of OpenVINO.

    Raises:
        TypeError: there is a layer of another kind.
    """
    from openvino import Model
    from openvino import opset13 as ops

    pixels = ops.parameter([IMAGES_IN_CACHE, INPUT_SIZE, INPUT_SIZE, 3], np.uint8)
    image = ops.transpose(ops.convert(pixels, np.float32), ops.constant([0, 3, 1, 2]))
    image = ops.subtract(image, ops.constant(np.float32(255 * MEAN)))
    value_of: dict[fx.Node, Any] = {}
    last: Any = image
    for node in _Tracer().trace(features).nodes:
        inputs = [value_of[node] for node in node.all_input_nodes]
        if node.op == "placeholder":
            value_of[node] = image
        elif node.op == "call_module":
            value_of[node] = _add_layer(ops, features.get_submodule(str(node.target)), *inputs)
        elif node.op == "call_function" and node.target is torch.cat:
            value_of[node] = ops.concat(inputs, 1)
        elif node.op == "output":
            last = inputs[0]
        else:
            raise TypeError(f"{node.format_node()} has no counterpart in OpenVINO")
    return Model([ops.result(last)], [pixels], "inception_v4")


def _add_layer(ops: Any, layer: nn.Module, x_NCHW: Any) -> Any:
    """The output of a layer for an input."""
    if isinstance(layer, FoldedConv):
        weight_OIHW, bias_C = _to_numpy(layer.weight), _to_numpy(layer.bias)
        padding = list(layer.padding)
        y_NCHW = ops.convolution(x_NCHW, ops.constant(weight_OIHW), list(layer.stride), padding, padding, [1, 1])
        y_NCHW = ops.add(y_NCHW, ops.constant(bias_C[None, :, None, None]))
        return ops.relu(y_NCHW) if layer.relu else y_NCHW
    if isinstance(layer, MaxPool):
        return ops.max_pool(x_NCHW, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3], "floor").output(0)
    if isinstance(layer, nn.AvgPool2d):
        return ops.avg_pool(x_NCHW, [1, 1], [1, 1], [1, 1], [3, 3], exclude_pad=True)
    if isinstance(layer, nn.ReLU):
        return ops.relu(x_NCHW)
    raise TypeError(f"{layer} has no counterpart in OpenVINO")


def _to_numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().contiguous().numpy()
    return array
