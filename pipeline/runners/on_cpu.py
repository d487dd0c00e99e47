"""How the network is run on a processor.

In: uint8 images [N, 299, 299, 3]. Out: the network's one tensor of answers, float32 [N, 2k + 1536], in host memory.
Thread safe: a core that one call leaves idle at the end of a batch works for the next call.
Not here: what the network computes (`folded.py`), what the answers mean (`table.py`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pipeline.memory import keep_freed_memory
from pipeline.model.spec import INPUT_SIZE
from pipeline.runners.folded import UintNetwork

IN_CACHE = 4  # images at once on a core: what lies between two layers then stays in its cache


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
