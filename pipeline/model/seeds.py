"""Untrained weights: a seed -> a state dict, the same on every machine. `weights.SEED_RECIPE` is the recipe's number.

Convolutions are Kaiming-normal (fan-in, ReLU), and BatchNorm does nothing. Such a network hardly ever turns a small
difference of pixels into a large one. But the embeddings of its images differ by little, so a default head would give
every image the same label. This head whitens instead: it projects embeddings on the first principal directions of the
embeddings of a few synthetic images, scales these directions to variance 1, and compares the result with one random
unit vector for each class.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.model.inception_v4 import InceptionV4
from pipeline.model.spec import EMBEDDING_SIZE, INPUT_SIZE, NUM_IMAGENET_CLASSES

IMAGES = 16  # more would cost time at each start and add little
DIRECTIONS = 12
LOGIT_STD = 5  # then top-1 of 1000 classes mostly has a probability of 0.05 to 0.6


def make_untrained_weights(seed: int) -> dict[str, Tensor]:
    """The state dict of a seed, float32, with the keys of `InceptionV4` (without BatchNorm's batch counters)."""
    # numpy's generator gives the same numbers on every platform.
    random = np.random.Generator(np.random.Philox(seed))
    with torch.device("meta"):
        network = InceptionV4()
    state = {}
    for name, meta in network.state_dict().items():
        if meta.ndim == 4:
            values = random.standard_normal(tuple(meta.shape), np.float32)
            values *= np.float32(np.sqrt(2 / values[0].size))
            state[name] = torch.from_numpy(values)
        elif not name.endswith("num_batches_tracked"):
            ones = name.endswith(("bn.weight", "running_var"))
            state[name] = (torch.ones if ones else torch.zeros)(meta.shape)

    network.load_state_dict(state, strict=False, assign=True)
    network.eval().to(memory_format=torch.channels_last)
    image_NCHW = torch.from_numpy(_synthetic_images(INPUT_SIZE)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        parts = [network(part_NCHW)[0].numpy() for part_NCHW in torch.split(image_NCHW, 8)]
    embedding_ND = np.concatenate(parts).astype(np.float64)

    mean_D = embedding_ND.mean(0)
    _, scale, direction_KD = np.linalg.svd(embedding_ND - mean_D, full_matrices=False)
    direction_KD = direction_KD[:DIRECTIONS]
    std_K = scale[:DIRECTIONS] / np.sqrt(IMAGES)
    # The SVD of another machine may change the sign of a direction; V diag(1/std) V^T stays the same then.
    class_CK = random.standard_normal((NUM_IMAGENET_CLASSES, EMBEDDING_SIZE)) @ direction_KD.T
    class_CK *= LOGIT_STD / np.linalg.norm(class_CK, axis=1, keepdims=True)
    head_CD = class_CK / std_K @ direction_KD
    state["last_linear.weight"] = torch.from_numpy(head_CD.astype(np.float32))
    state["last_linear.bias"] = torch.from_numpy((-head_CD @ mean_D).astype(np.float32))
    return state


def _synthetic_images(size: int) -> np.ndarray:
    """Normalised images, float32 [IMAGES, size, size, 3]: noise like that of photographs, stripes, discs.

    They are always the same. Each property has evenly spaced values in random order, so that few images cover a wide
    range.
    """
    random = np.random.Generator(np.random.Philox(0))

    def spread(low: float, high: float) -> np.ndarray:
        return random.permutation(np.linspace(low, high, IMAGES))

    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf  # noise has mean 0
    image_NHWC = np.empty((IMAGES, size, size, 3), np.float32)
    properties = zip(spread(0.15, 0.85), spread(0, 0.25), spread(0, 2 * np.pi),  # brightness, saturation, hue
                     spread(0.7, 2), spread(0.03, 0.3), spread(0, 0.6),  # noise: slope of 1/f, contrast, colour
                     spread(0, np.pi), spread(2, 40), spread(0, 0.25), strict=True)  # stripes: angle, number, contrast
    for image_HWC, (brightness, saturation, hue, slope, contrast, colour, angle, number, stripes) in zip(
            image_NHWC, properties, strict=True):
        spectrum = np.fft.rfft2(random.standard_normal((3, size, size))) * frequency**-slope
        noise_CHW = np.fft.irfft2(spectrum, s=(size, size))
        noise_CHW = colour * noise_CHW + (1 - colour) * np.sqrt(3) * noise_CHW.mean(0)
        stripe_HW = np.sin(2 * np.pi * number * (np.cos(angle) * x + np.sin(angle) * y))
        colour_C = brightness + saturation * np.cos(hue + np.arange(3) * 2 * np.pi / 3)
        image_CHW = colour_C[:, None, None] + contrast * noise_CHW / noise_CHW.std() + stripes * stripe_HW
        for _ in range(2):
            left, top, radius = random.uniform(-0.4, 0.4), random.uniform(-0.4, 0.4), random.uniform(0.1, 0.4)
            disc_HW = (x - left) ** 2 + (y - top) ** 2 < radius**2
            image_CHW = np.where(disc_HW, 0.4 * image_CHW + 0.6 * random.uniform(0, 1, (3, 1, 1)), image_CHW)
        image_HWC[:] = np.clip(image_CHW, 0, 1).transpose(1, 2, 0) * 2 - 1
    return image_NHWC
