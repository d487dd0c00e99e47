"""How the network is run on a CUDA device: a plain runner that nearly certainly works, and a fast one.

In: uint8 images [N, 299, 299, 3], any N. Out: the network's one tensor of answers, float32 [N, 2k + 1536], in host memory.
The device is always the current one, as CUDA_VISIBLE_DEVICES and MIG make it. Both runners are thread safe: with two
to four calls at a time the device computes one batch while another is copied.
Not here: which of the two runs (`probe.py`), what the network computes (`folded.py`).
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

ACTIVATION_BYTES = 2**25  # for an image, at most: three maps of 147 x 147 x 64 in float32, and cuDNN's workspace
SLOTS = 3  # batches on their way at once: one copied in, one computed, one copied out
WARM_UPS = 2  # before a capture: in the first cuDNN chooses its algorithms
SEARCHED = 4  # algorithms that cuDNN tries for a layer: all of them take minutes


class PlainCuda:
    """Batches one after the other: copied in, computed layer by layer, copied out."""

    name = "plain"

    def __init__(self, network: UintNetwork, batch_size: int) -> None:
        _set_cudnn(search=False)
        self.network = network.cuda()
        self.batch_size = batch_size
        self.computing = threading.Lock()  # what lies between the layers is there once

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        starts = range(0, len(image_NHWC), self.batch_size)
        answers = [self._run(image_NHWC[at:at + self.batch_size]) for at in starts]
        return np.concatenate([np.empty((0, self.network.answer_size), np.float32), *answers])

    @torch.inference_mode()
    def _run(self, image_NHWC: np.ndarray) -> np.ndarray:
        device_NHWC = torch.tensor(image_NHWC, device="cuda")
        with self.computing:
            return self.network(device_NHWC).cpu().numpy()

    def slots_for(self, num_images: int) -> int:
        """How many images the device computes for a call of so many: no padding here."""
        return num_images


class _Slot(NamedTuple):
    """The places of one batch on its way."""

    host_NHWC: Tensor  # uint8, pinned
    staging_NHWC: Tensor  # uint8, on the device
    host_NK: Tensor  # float32, pinned
    copying: torch.cuda.Stream
    copied: torch.cuda.Event
    done: torch.cuda.Event


class FastCuda:
    """Batches of fixed sizes through captured graphs; the next batch is copied in while one is computed.

    There is a graph for `batch_size` images, one for half of it and one for a quarter: a batch takes the smallest that
    holds it, and what is behind its images is padding. All graphs read `input_NHWC` and write `output_NK`. They run one
    after the other, so they share their memory. In half precision they use `fuse`.
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
        self.computing = torch.cuda.Stream()
        self.computing.wait_stream(torch.cuda.current_stream())
        self.pool = torch.cuda.graph_pool_handle()
        self.spoiler: torch.cuda.CUDAGraph | None = self._capture_spoiler()
        _set_cudnn(search=True)
        try:
            self.graphs = {size: self._capture(size) for size in reversed(self.sizes)}
        finally:
            _set_cudnn(search=False)
        torch.cuda.empty_cache()  # of what the warm-up took
        self.slots: SimpleQueue[_Slot | None] = SimpleQueue()
        for _ in range(SLOTS):
            self.slots.put(self._slot())

    @torch.inference_mode()
    def _capture_spoiler(self) -> torch.cuda.CUDAGraph:
        """A graph that fills the graphs' shared memory with NaN: bytes of 255 are NaN in each of our types."""
        num_bytes = self.batch_size * ACTIVATION_BYTES // 8 * self.network.dtype.itemsize
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.computing, capture_error_mode="thread_local"):
            torch.full((num_bytes,), 255, dtype=torch.uint8, device="cuda")
        return graph

    @torch.inference_mode()
    def _capture(self, size: int) -> torch.cuda.CUDAGraph:
        with torch.cuda.stream(self.computing):
            for _ in range(WARM_UPS):
                self.output_NK[:size].copy_(self.network(self.input_NHWC[:size]))
        self.computing.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.computing, capture_error_mode="thread_local"):
            self.output_NK[:size].copy_(self.network(self.input_NHWC[:size]))
        return graph

    def _slot(self) -> _Slot:
        staging_NHWC = torch.zeros_like(self.input_NHWC)
        torch.cuda.current_stream().synchronize()  # the zeros are written before another stream copies to it
        return _Slot(torch.empty(staging_NHWC.shape, dtype=torch.uint8, pin_memory=True), staging_NHWC,
                     torch.empty(self.output_NK.shape, pin_memory=True), torch.cuda.Stream(),
                     torch.cuda.Event(blocking=True), torch.cuda.Event(blocking=True))  # others spin, and take a core

    @torch.inference_mode()
    def spoil(self) -> None:
        """Fill with NaN what the graphs do not write before they read it; for `probe.py`, before `forget_spoiler`."""
        assert self.spoiler is not None
        with self.order, torch.cuda.stream(self.computing):
            self.spoiler.replay()
            self.output_NK.fill_(torch.nan)
        self.computing.synchronize()

    def forget_spoiler(self) -> None:
        self.spoiler = None

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        starts = range(0, len(image_NHWC), self.batch_size)
        answers = [self._run(image_NHWC[at:at + self.batch_size]) for at in starts]
        return np.concatenate([np.empty((0, self.network.answer_size), np.float32), *answers])

    @torch.inference_mode()  # of this thread: what is written here is not to be differentiated
    def _run(self, image_NHWC: np.ndarray) -> np.ndarray:
        slot = self.slots.get()
        if slot is None:
            self.slots.put(None)
            raise RuntimeError("the CUDA device of this process failed in an earlier batch")
        try:
            answer_NK = self._through(slot, image_NHWC)
        except BaseException:
            self._settle(slot)
            raise
        self.slots.put(slot)
        return answer_NK

    def _through(self, slot: _Slot, image_NHWC: np.ndarray) -> np.ndarray:
        num = len(image_NHWC)
        np.copyto(slot.host_NHWC.numpy()[:num], image_NHWC)
        with torch.cuda.stream(slot.copying):
            slot.staging_NHWC[:num].copy_(slot.host_NHWC[:num], non_blocking=True)
            slot.copied.record()
        with self.order, torch.cuda.stream(self.computing):
            slot.copied.wait()
            self.input_NHWC[:num].copy_(slot.staging_NHWC[:num], non_blocking=True)
            self.graphs[self._size(num)].replay()
            slot.host_NK[:num].copy_(self.output_NK[:num], non_blocking=True)
            slot.done.record()
        slot.done.synchronize()
        return slot.host_NK[:num].numpy().copy()

    def _settle(self, slot: _Slot) -> None:
        """Give a slot back after an error, once nothing is on its way there. If that fails, the device is lost."""
        try:
            slot.copying.synchronize()
            self.computing.synchronize()
        except BaseException:
            self.slots.put(None)  # nobody waits for this slot
            raise
        self.slots.put(slot)

    def _size(self, num: int) -> int:
        return min(size for size in self.sizes if size >= num)

    def slots_for(self, num_images: int) -> int:
        """How many images the device computes for a call of so many: the sizes of the graphs it takes."""
        whole, rest = divmod(num_images, self.batch_size)
        return whole * self.batch_size + (self._size(rest) if rest else 0)


def _set_cudnn(search: bool) -> None:
    """`search`: let cuDNN time its algorithms for each new shape; otherwise it takes the one it expects to be best."""
    torch.backends.cudnn.benchmark = search
    torch.backends.cudnn.benchmark_limit = SEARCHED
    torch.backends.cudnn.deterministic = True  # the same images give the same bits
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: TF32 has the 10 bits of fp16


def choose_batch_size(wanted: int | None, free_bytes: int, multiprocessors: int) -> int:
    """The number of images that the device takes at once.

    Args:
        wanted: what the user says; None: 256 on a large device, 128 on a middle one, 64 on a small one or a slice.
        free_bytes: of the device's memory.
        multiprocessors: of the device, or of the slice of it.
    """
    usual = 256 if multiprocessors >= 60 else 128 if multiprocessors >= 48 else 64
    return largest_batch_that_fits(wanted or usual, free_bytes)


def largest_batch_that_fits(batch_size: int, free_bytes: int) -> int:
    """`batch_size`, halved until what lies between the layers takes at most half of the device's free memory."""
    while batch_size > 1 and batch_size * ACTIVATION_BYTES > free_bytes // 2:
        batch_size //= 2
    return batch_size
