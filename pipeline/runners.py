"""How the network is run on a processor and on a GPU.

In: uint8 images [N, 299, 299, 3]. Out: the network's one tensor of answers, float32 [N, 2k + 1536], in host memory.
Both are thread safe; what one call leaves idle (a core at the end of a batch, the GPU during a copy) the next one uses.
Not here: what the network computes (`folded.py`), what the answers mean (`labeller.py`).
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.folded import UintNetwork
from pipeline.inception_v4 import INPUT_SIZE
from pipeline.memory import keep_freed_memory

IN_CACHE = 4  # images at once on a core: what lies between two layers then stays in its cache

ACTIVATION_BYTES = 2**25  # for an image, at most: three maps of 147 x 147 x 64 in float32, and cuDNN's workspace


class OnCpu:
    """A few images at a time on each core, none waiting for another.

    One network on all cores meets at a barrier after each layer, where one core that is slow for a moment holds up
    all: on two cores this way was 5 to 10 % faster.
    """

    def __init__(self, network: UintNetwork, num_threads: int) -> None:
        keep_freed_memory()
        self.network = network
        self.num_threads = num_threads
        self.pool = ThreadPoolExecutor(num_threads, "label", torch.set_num_threads, (1,))
        self.pool.submit(self._run, np.zeros((IN_CACHE, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)).result()  # packs weights

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        few = min(IN_CACHE, -(-len(image_NHWC) // self.num_threads)) or 1
        parts = [image_NHWC[at:at + few] for at in range(0, max(1, len(image_NHWC)), few)]
        return np.concatenate(list(self.pool.map(self._run, parts)))

    def _run(self, image_NHWC: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.network(torch.tensor(image_NHWC)).numpy()


class _Slot(NamedTuple):
    """The places of one batch, and the network captured on them."""

    host_NHWC: Tensor  # uint8, pinned
    device_NHWC: Tensor
    device_NK: Tensor  # float32
    host_NK: Tensor  # pinned
    graphs: dict[int, torch.cuda.CUDAGraph]  # by the number of images they compute
    copying: torch.cuda.Stream
    copied: torch.cuda.Event
    done: torch.cuda.Event


class OnCuda:
    """Batches of fixed sizes through captured graphs; the next batch is copied in while one is computed.

    There is a graph for `batch_size` images, one for half of it and one for a quarter: a batch takes the smallest that
    holds it, and what is behind its images is padding.
    """

    def __init__(self, network: UintNetwork, batch_size: int) -> None:
        torch.backends.cudnn.benchmark = True  # all batches of a graph have one shape
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: TF32 has the 10 bits of fp16
        self.network = network.cuda()
        self.batch_size = fitting(batch_size, torch.cuda.mem_get_info()[0])
        self.computing = torch.cuda.Stream()
        self.order = threading.Lock()
        self.slots: SimpleQueue[_Slot] = SimpleQueue()
        pool = torch.cuda.graph_pool_handle()  # graphs run one after the other, so they share their memory
        for _ in range(2):
            self.slots.put(self._slot(pool))

    @torch.inference_mode()
    def _slot(self, pool: Any) -> _Slot:
        shape = (self.batch_size, INPUT_SIZE, INPUT_SIZE, 3)
        device_NHWC = torch.zeros(shape, dtype=torch.uint8, device="cuda")
        self.computing.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.computing):
            device_NK = self.network(device_NHWC).clone()  # not of the shared memory
        self.computing.synchronize()
        sizes = {max(1, self.batch_size // part) for part in (1, 2, 4)}
        graphs = {size: self._capture(device_NHWC[:size], device_NK[:size], pool) for size in sorted(sizes, reverse=True)}
        return _Slot(torch.empty(shape, dtype=torch.uint8, pin_memory=True), device_NHWC, device_NK,
                     torch.empty(device_NK.shape, pin_memory=True), graphs, torch.cuda.Stream(), torch.cuda.Event(),
                     torch.cuda.Event())

    def _capture(self, device_NHWC: Tensor, device_NK: Tensor, pool: Any) -> torch.cuda.CUDAGraph:
        self.computing.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.computing):
            for _ in range(3):  # cuDNN chooses its algorithms before the capture
                device_NK.copy_(self.network(device_NHWC))
        self.computing.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=self.computing):
            device_NK.copy_(self.network(device_NHWC))
        return graph

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        starts = range(0, max(1, len(image_NHWC)), self.batch_size)
        return np.concatenate([self._run(image_NHWC[at:at + self.batch_size]) for at in starts])

    def _run(self, image_NHWC: np.ndarray) -> np.ndarray:
        num = len(image_NHWC)
        slot = self.slots.get()
        try:
            np.copyto(slot.host_NHWC.numpy()[:num], image_NHWC)
            with torch.cuda.stream(slot.copying):
                slot.device_NHWC[:num].copy_(slot.host_NHWC[:num], non_blocking=True)
                slot.copied.record()
            with self.order, torch.cuda.stream(self.computing):
                slot.copied.wait()
                slot.graphs[min(size for size in slot.graphs if size >= num)].replay()
                slot.host_NK[:num].copy_(slot.device_NK[:num], non_blocking=True)
                slot.done.record()
            slot.done.synchronize()
            return slot.host_NK[:num].numpy().copy()
        finally:
            self.slots.put(slot)


def fitting(batch_size: int, free_bytes: int) -> int:
    """`batch_size`, halved until what lies between the layers takes at most half of the device's free memory."""
    while batch_size > 1 and batch_size * ACTIVATION_BYTES > free_bytes // 2:
        batch_size //= 2
    return batch_size
