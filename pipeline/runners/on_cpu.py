"""Runs the network on a CPU.

In: uint8 images [N, 299, 299, 3]. Out: the network's tensor of answers, float32 [N, 2k + 1536].
Thread safe: at the end of a batch an idle core works for the next call.
Not here: what the network computes (`folded.py`); what the answers mean (`tables/labels.py`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pipeline.memory import keep_freed_memory
from pipeline.model.spec import INPUT_SIZE
from pipeline.runners.folded import UintNetwork

IMAGES_IN_CACHE = 4  # at once on a core: then the values between two layers stay in the cache of the core


class OnCpu:
    """Runs the network by torch, on a few images at a time on each core. No core waits for another.

    If all cores computed one batch together, they would wait for each other after each layer, and one slow core would
    delay all. On two cores this way was 5 to 10 % faster.
    """

    name = "cpu"

    def __init__(self, network: UintNetwork, num_threads: int) -> None:
        keep_freed_memory()
        self.network = network
        self.num_threads = num_threads
        self.pool = ThreadPoolExecutor(num_threads, "label", torch.set_num_threads, (1,))
        image_NHWC = np.zeros((IMAGES_IN_CACHE, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        self.pool.submit(self._run, image_NHWC).result()  # the first batch packs the weights

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        images_each = min(IMAGES_IN_CACHE, -(-len(image_NHWC) // self.num_threads)) or 1
        parts = [image_NHWC[at:at + images_each] for at in range(0, max(1, len(image_NHWC)), images_each)]
        return np.concatenate(list(self.pool.map(self._run, parts)))

    def slots_for(self, num_images: int) -> int:
        """As of `Labeller`: nothing is padded."""
        return num_images

    def _run(self, image_NHWC: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answer_NK: np.ndarray = self.network(torch.tensor(image_NHWC)).numpy()
        return answer_NK
