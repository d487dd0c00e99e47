"""A CUDA device's rules without a device, for the tests of `pipeline/on_cuda.py`, `probe.py` and `bench/gpu.py`.

In: pytest's monkeypatch. Out: `torch.cuda` and what else the runners call, on CPU tensors.
Not here: speed, memory limits, kernels.

What keeps the device's rules:
- Work on a stream is only queued. It happens in order when somebody waits for it; a wait that is missing shows as old
  data. `late=False` does it at once instead: then what must not be overwritten yet shows.
- What a graph captures does not happen. A replay does it again, on the same memory.
- Host memory with work on its way must not be looked at or written: AssertionError.
- An event that would spin is an AssertionError. An inference tensor stays one: that rule is torch's own.
- `torch.cudnn_convolution_relu` adds 0 times what lies in its output's memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.cuda_streams import Event, OnStream, Stream, address

REAL = {name: getattr(torch.Tensor, name) for name in ("copy_", "fill_", "numpy", "to", "cpu", "cuda")}


class Graph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self, device: StandIn) -> None:
        self.device = device
        self.ops: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def replay(self) -> None:
        self.device.called("replay")
        self.device.current().push(self.compute)

    def compute(self) -> None:
        for function, args, kwargs, outputs in self.ops:
            if function is torch.ops.aten.full.default and args[1] == 255:
                REAL["fill_"](self.device.memory, torch.nan)
            again = function(*args, **kwargs)
            if not function._schema.is_mutable:
                for output, value in zip(tensors(outputs), tensors(again), strict=True):
                    REAL["copy_"](output, value)


class Capture(TorchDispatchMode):
    """`torch.cuda.graph`: notes each operation. In-place ones are not done; others are, for the shapes."""

    def __init__(self, device: StandIn, graph: Graph, stream: Stream) -> None:
        super().__init__()
        self.device, self.graph, self.on = device, graph, OnStream(device, stream)

    def __enter__(self) -> Any:
        self.device.synchronize()
        self.device.called("capture")
        self.on.__enter__()
        self.device.local.capturing = True
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[arg-type]
        self.device.local.capturing = False
        self.on.__exit__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        in_place = function._schema.is_mutable
        outputs = args[0] if in_place else function(*args, **(kwargs or {}))
        inputs = {address(tensor) for tensor in tensors((args, kwargs))}
        if in_place or not inputs.intersection(map(address, tensors(outputs))):  # a view stays a view of the same
            self.graph.ops.append((function, args, kwargs or {}, outputs))
        return outputs


class StandIn:
    """The device; a test changes how it behaves.

    late: whether queued work waits until it must happen.
    fault: what is wrong with the fused convolution: its output -> what it gives.
    memory: what lies in memory that nobody has written: 0, or NaN after somebody filled it with that.
    """

    def __init__(self, late: bool) -> None:
        self.late = late
        self.lock = threading.RLock()
        self.local = threading.local()
        self.streams: list[Stream] = []
        self.default = Stream(self)
        self.fault: Callable[[Tensor], Tensor] = lambda y_NCHW: y_NCHW
        self.memory = torch.zeros(())
        self.failing: dict[str, int] = {}
        self.lost = False
        self.calls: dict[str, int] = {}

    def current(self) -> Stream:
        return getattr(self.local, "stream", self.default)

    def synchronize(self) -> None:
        for stream in list(self.streams):
            stream.synchronize()

    def fail(self, kind: str, at: int = 1) -> None:
        """Let the next `copy`, `replay`, `capture` or `synchronize`, or the one so many later, raise."""
        self.failing[kind] = at

    def called(self, kind: str) -> None:
        with self.lock:
            assert not getattr(self.local, "capturing", False), f"{kind} while a graph is captured"
            self.calls[kind] = self.calls.get(kind, 0) + 1
            if self.lost:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if kind in self.failing:
                self.failing[kind] -= 1
                if self.failing[kind] == 0:
                    del self.failing[kind]
                    raise RuntimeError(f"CUDA error: {kind} failed\nand a second line")

    def write(self, name: str, target: Tensor, source: Any, non_blocking: bool) -> Tensor:
        if getattr(self.local, "capturing", False):
            return REAL[name](target, source)
        if target.is_inference() and not torch.is_inference_mode_enabled():
            raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed.")
        if non_blocking:
            self.called("copy")
            self.current().push(lambda: REAL[name](target, source), target, *[source] * isinstance(source, Tensor))
            return target
        self.current().run()
        return REAL[name](target, source)

    def numpy(self, tensor: Tensor, *args: Any, **options: Any) -> Any:
        with self.lock:
            on_its_way = any(address(tensor) in touched for stream in self.streams for _, touched in stream.queue)
        assert not on_its_way, "memory is looked at while work on it is on its way"
        return REAL["numpy"](tensor, *args, **options)

    def add_relu(self, x_NCHW: Tensor, weight: Tensor, z_NCHW: Tensor, alpha: float, bias: Tensor, stride: Any,
                 padding: Any, dilation: Any, groups: int) -> Tensor:
        if x_NCHW.dtype == torch.float32:
            raise RuntimeError("FIND was unable to find an engine to execute this computation")
        y_NCHW = torch.conv2d(x_NCHW, weight, bias, stride, padding)
        assert z_NCHW.shape == y_NCHW.shape and z_NCHW.is_contiguous(memory_format=torch.channels_last)
        return torch.relu(self.fault(y_NCHW + alpha * z_NCHW))

    def conv_relu(self, x_NCHW: Tensor, weight: Tensor, bias: Tensor, stride: Any, padding: Any, *_: Any) -> Tensor:
        return torch.relu(torch.conv2d(x_NCHW, weight, bias, stride, padding) + 0 * self.memory)

    def nan_memory(self, y_NCHW: Tensor) -> Tensor:
        """A fault: what lies in the output's memory is added, 0 times."""
        return y_NCHW + 0 * self.memory


def tensors(values: Any) -> list[Tensor]:
    """Those with memory of their own kind: oneDNN's weights have none."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and not value.is_mkldnn]


def here(value: Any) -> Any:
    return "cpu" if str(value).startswith("cuda") else value


def install(monkeypatch: pytest.MonkeyPatch, late: bool = True) -> StandIn:
    """Put a stand-in in the place of `torch.cuda` until the test ends."""
    device = StandIn(late)
    patch = monkeypatch.setattr

    def made(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make(*args: Any, device: Any = None, pin_memory: bool = False, **options: Any) -> Tensor:
            return function(*args, device=here(device), **options)
        return make

    for name in ("empty", "zeros", "full", "tensor", "randn", "randint"):
        patch(torch, name, made(getattr(torch, name)))
    patch(torch, "cudnn_convolution_add_relu", device.add_relu)
    patch(torch, "cudnn_convolution_relu", device.conv_relu)
    for name in ("benchmark", "benchmark_limit", "deterministic", "allow_tf32"):
        patch(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))  # as they were, afterwards

    patch(torch.Tensor, "copy_", lambda a, b, non_blocking=False: device.write("copy_", a, b, non_blocking))
    patch(torch.Tensor, "fill_", lambda a, b: device.write("fill_", a, b, False))
    patch(torch.Tensor, "numpy", device_method(device.numpy))
    patch(torch.Tensor, "cuda", lambda tensor, *_, **__: tensor)
    patch(torch.Tensor, "to", lambda tensor, *args, **options: REAL["to"](
        tensor, *map(here, args), **{name: here(value) for name, value in options.items()}))

    def cpu(tensor: Tensor) -> Tensor:
        device.called("copy")
        device.current().run()
        return REAL["cpu"](tensor)
    patch(torch.Tensor, "cpu", cpu)

    for name, value in {
            "is_available": lambda: True, "mem_get_info": lambda *_: (2**36, 2**36),
            "get_device_name": lambda *_: "stand-in",
            "get_device_capability": lambda *_: (9, 0), "is_bf16_supported": lambda **_: True,
            "empty_cache": lambda: None,
            "get_device_properties": lambda *_: SimpleNamespace(multi_processor_count=132),
            "current_stream": device.current, "synchronize": device.synchronize, "graph_pool_handle": object,
            "Stream": lambda: Stream(device), "Event": lambda blocking=False: Event(device, blocking),
            "stream": lambda stream: OnStream(device, stream), "CUDAGraph": lambda: Graph(device),
            "graph": lambda graph, pool, stream, capture_error_mode="global": Capture(device, graph, stream)}.items():
        patch(torch.cuda, name, value)
    return device


def device_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method as a plain function, so that a class binds its own first argument."""
    return lambda *args, **options: function(*args, **options)
