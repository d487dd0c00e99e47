"""Runs the network on a CUDA device: a plain runner, which almost certainly works, and a fast runner.

In: uint8 images [N, 299, 299, 3], any N. Out: the network's tensor of answers, float32 [N, 2k + 1536], in host memory.
The device is the current one, as CUDA_VISIBLE_DEVICES and MIG choose it. Both runners are thread safe: with two to four
calls at a time the device computes one batch while another is copied.
Not here: which of the two runs (`probe.py`); what the network computes (`folded.py`).
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.model.spec import INPUT_SIZE
from pipeline.runners.folded import LARGEST_MAP, UintNetwork, fuse_layers

# At most, for one image: three maps of 147 x 147 x 64 in float32, and cuDNN's workspace.
ACTIVATION_BYTES = 2**25
NUM_SLOTS = 3  # batches in work at once: one is copied in, one is computed, one is copied out
NUM_WARM_UPS = 2  # before a capture; in the first one cuDNN chooses its algorithms
MAX_ALGORITHMS = 4  # that cuDNN tries for a layer; to try all takes minutes


class PlainCuda:
    """Runs one batch after the other: copies it in, computes it layer by layer, copies the answers out."""

    name = "plain"

    def __init__(self, network: UintNetwork, batch_size: int) -> None:
        _set_cudnn(search=False)
        self.network = network.cuda()
        self.batch_size = batch_size
        self.computing = threading.Lock()  # one call at a time has memory for the values between the layers

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        starts = range(0, len(image_NHWC), self.batch_size)
        answers = [self._run(image_NHWC[at:at + self.batch_size]) for at in starts]
        return np.concatenate([np.empty((0, self.network.answer_size), np.float32), *answers])

    @torch.inference_mode()
    def _run(self, image_NHWC: np.ndarray) -> np.ndarray:
        device_NHWC = torch.tensor(image_NHWC, device="cuda")
        with self.computing:
            answer_NK: np.ndarray = self.network(device_NHWC).cpu().numpy()
        return answer_NK

    def slots_for(self, num_images: int) -> int:
        """The number of images that the device computes for a call with `num_images`: the same, without padding."""
        return num_images


class _Slot(NamedTuple):
    """The memory of one batch in work, with its stream and events."""

    host_NHWC: Tensor  # uint8, pinned
    staging_NHWC: Tensor  # uint8, on the device
    host_NK: Tensor  # float32, pinned
    copying: torch.cuda.Stream
    copied: torch.cuda.Event
    done: torch.cuda.Event


class FastCuda:
    """Runs batches of fixed sizes as captured graphs. The next batch is copied in while one is computed.

    There is a graph for `batch_size` images, one for half of it and one for a quarter. A batch takes the smallest graph
    that holds it; the places behind its images are padding. All graphs read `input_NHWC` and write `output_NK`. They
    run one after the other, so they share their memory. In half precision the layers are fused (`fuse_layers`).
    """

    name = "fast"

    def __init__(self, network: UintNetwork, batch_size: int, fused: bool = True) -> None:
        self.network = network.cuda()
        self.batch_size = batch_size
        self.sizes = sorted({max(1, batch_size // part) for part in (1, 2, 4)})
        if fused and network.dtype != torch.float32:
            fuse_layers(network, torch.zeros(batch_size * LARGEST_MAP, dtype=network.dtype, device="cuda"))
        self.input_NHWC = torch.zeros((batch_size, INPUT_SIZE, INPUT_SIZE, 3), dtype=torch.uint8, device="cuda")
        self.output_NK = torch.zeros((batch_size, network.answer_size), device="cuda")
        self.order = threading.Lock()
        self.computing = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.computing.wait_stream(torch.cuda.current_stream())
        self.pool = torch.cuda.graph_pool_handle()
        self.spoiler: torch.cuda.CUDAGraph | None = self._capture_spoiler()
        _set_cudnn(search=True)
        try:
            self.graphs = {size: self._capture(size) for size in reversed(self.sizes)}
        finally:
            _set_cudnn(search=False)
        torch.cuda.empty_cache()  # free the memory of the warm-up
        self.slots: SimpleQueue[_Slot | None] = SimpleQueue()
        for _ in range(NUM_SLOTS):
            self.slots.put(self._make_slot())

    @torch.inference_mode()
    def _capture_spoiler(self) -> torch.cuda.CUDAGraph:
        """A graph that fills the graphs' shared memory with NaN: in each of our types the bytes 255 are NaN."""
        num_bytes = self.batch_size * ACTIVATION_BYTES // 8 * self.network.dtype.itemsize
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.computing, capture_error_mode="thread_local"):
            torch.full((num_bytes,), 255, dtype=torch.uint8, device="cuda")
        return graph

    @torch.inference_mode()
    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        with torch.cuda.stream(self.computing):
            for _ in range(NUM_WARM_UPS):
                self.output_NK[:size].copy_(self.network(self.input_NHWC[:size]))
        self.computing.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.computing, capture_error_mode="thread_local"):
            self.output_NK[:size].copy_(self.network(self.input_NHWC[:size]))
        return graph

    def _make_slot(self) -> _Slot:
        staging_NHWC = torch.zeros_like(self.input_NHWC)
        torch.cuda.current_stream().synchronize()  # another stream copies to it: the zeros must be written before
        host_NHWC = torch.empty(staging_NHWC.shape, dtype=torch.uint8, pin_memory=True)
        host_NK = torch.empty(self.output_NK.shape, pin_memory=True)
        copying = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # Other events than blocking ones spin while they wait.
        copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        return _Slot(host_NHWC, staging_NHWC, host_NK, copying, copied, done)

    @torch.inference_mode()
    def spoil(self) -> None:
        """Fill the graphs' memory and their output with NaN, for a trial. Not after `forget_spoiler`."""
        assert self.spoiler is not None
        with self.order, torch.cuda.stream(self.computing):
            self.spoiler.replay()
            self.output_NK.fill_(torch.nan)
        self.computing.synchronize()

    def forget_spoiler(self) -> None:
        """Free the graph that `spoil` needs."""
        self.spoiler = None

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        starts = range(0, len(image_NHWC), self.batch_size)
        answers = [self._run(image_NHWC[at:at + self.batch_size]) for at in starts]
        return np.concatenate([np.empty((0, self.network.answer_size), np.float32), *answers])

    @torch.inference_mode()  # the mode is per thread; tensors made in it may be written only in it
    def _run(self, image_NHWC: np.ndarray) -> np.ndarray:
        slot = self.slots.get()
        if slot is None:
            self.slots.put(None)
            raise RuntimeError("the CUDA device of this process failed in an earlier batch")
        try:
            answer_NK = self._compute(slot, image_NHWC)
        except BaseException:
            self._recover(slot)
            raise
        self.slots.put(slot)
        return answer_NK

    def _compute(self, slot: _Slot, image_NHWC: np.ndarray) -> np.ndarray:
        num = len(image_NHWC)
        np.copyto(slot.host_NHWC.numpy()[:num], image_NHWC)
        with torch.cuda.stream(slot.copying):
            slot.staging_NHWC[:num].copy_(slot.host_NHWC[:num], non_blocking=True)
            slot.copied.record()
        with self.order, torch.cuda.stream(self.computing):
            slot.copied.wait()
            self.input_NHWC[:num].copy_(slot.staging_NHWC[:num], non_blocking=True)
            self.graphs[self._graph_size(num)].replay()
            slot.host_NK[:num].copy_(self.output_NK[:num], non_blocking=True)
            slot.done.record()
        slot.done.synchronize()
        return slot.host_NK[:num].numpy().copy()

    def _recover(self, slot: _Slot) -> None:
        """Give a slot back after an error, once no copy to it is under way. If that fails, the device is lost."""
        try:
            slot.copying.synchronize()
            self.computing.synchronize()
        except BaseException:
            self.slots.put(None)  # all later calls fail at once, instead of waiting for this slot
            raise
        self.slots.put(slot)

    def _graph_size(self, num: int) -> int:
        return min(size for size in self.sizes if size >= num)

    def slots_for(self, num_images: int) -> int:
        """The number of images that the device computes for a call with `num_images`: the sizes of its graphs."""
        whole, rest = divmod(num_images, self.batch_size)
        return whole * self.batch_size + (self._graph_size(rest) if rest else 0)


def _set_cudnn(search: bool) -> None:
    """Configure cuDNN. `search`: it times algorithms for each new shape; else it takes the one it expects to win."""
    torch.backends.cudnn.benchmark = search
    torch.backends.cudnn.benchmark_limit = MAX_ALGORITHMS
    torch.backends.cudnn.deterministic = True  # the same images give the same bits
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: TF32 has the 10 bits of fp16


def choose_batch_size(asked_for: int | None, free_bytes: int, multiprocessors: int) -> int:
    """The number of images that the device takes at once.

    Args:
        asked_for: by the user; None: 256 on a large device, 128 on a middle one, 64 on a small one or on a slice.
        free_bytes: free memory of the device.
        multiprocessors: of the device, or of the slice.
    """
    usual = 256 if multiprocessors >= 60 else 128 if multiprocessors >= 48 else 64
    return largest_batch_that_fits(asked_for or usual, free_bytes)


def largest_batch_that_fits(batch_size: int, free_bytes: int) -> int:
    """`batch_size`, halved until the values between the layers take at most half of the free memory."""
    while batch_size > 1 and batch_size * ACTIVATION_BYTES > free_bytes // 2:
        batch_size //= 2
    return batch_size
