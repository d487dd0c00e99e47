"""The weights: find, verify, load.

In: the value of `--weights`: `pretrained`, a path or URI of a `.safetensors` or `.pth` file, or `seed:N`.
Out: first the weights' identity, which planning needs and which is cheap; then, on request, a state dict in float32.
Not here: the network's arithmetic (`labeller.py`), and whether the classes match (`labeller.check_classes`).

torch is imported by `load`, not before: planning a run does without it.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import storage
from pipeline.config import UserError, canonical_uri

if TYPE_CHECKING:
    from torch import Tensor

HUB_REPO = "timm/inception_v4.tf_in1k"
HUB_FILE = "model.safetensors"
HUB_SHA256 = "a756a086851c8d5a8de135ec15c76b90ea56cb5aef450e3299107e659e725bb1"  # of HUB_FILE, 1000 classes
HUB_TIMEOUT_S = 5.0  # for the hub's first answer
SUFFIXES = (".safetensors", ".pth")


@dataclass(frozen=True)
class Weights:
    """Which weights: `spec` as `load` reads it (local paths absolute), `digest` the SHA-256 that identifies them."""

    spec: str
    digest: str

    @property
    def model_id(self) -> str:
        """Network and weights in a name for folders and tables: `inception_v4-a756a086`."""
        return f"inception_v4-{self.digest[:8]}"

    @property
    def meaningless(self) -> bool:
        """True for untrained weights: their labels tell images apart and mean nothing."""
        return self.spec.startswith("seed:")


def identify(spec: str) -> Weights:
    """The identity of the weights that `--weights spec` names.

    The digest is that of the file's bytes, which are read once; of the recipe, for seed:N; and known beforehand,
    for `pretrained`: neither a download nor torch is needed.

    Raises:
        UserError: not a value that --weights takes, or a file that cannot be read.
    """
    if spec == "pretrained":
        return Weights(spec, HUB_SHA256)
    if spec.startswith("seed:"):
        if not re.fullmatch(r"seed:(0|[1-9][0-9]{0,17})", spec):
            raise UserError(f"--weights {spec}: the seed must be a whole number, as in seed:0.")
        recipe = f"inception_v4 seed recipe {SEED_RECIPE}: {spec.removeprefix('seed:')}"
        return Weights(spec, _sha256(recipe.encode()))
    if not spec.lower().endswith(SUFFIXES):
        raise UserError(f"--weights {spec}: it takes 'pretrained', 'seed:N', or a file that ends in .safetensors "
                        "or .pth.")
    return Weights(canonical_uri(spec), _sha256(_read(spec)))


def load(weights: Weights) -> dict[str, Tensor]:
    """The state dict, float32, with the keys of `InceptionV4` (without BatchNorm's batch counters).

    A file of 1001 classes loses the first (Google's "background"), so that label_id 0 is ImageNet-1k's first class.

    Raises:
        UserError: the hub or file cannot be read, is not what `identify` saw, or does not fit Inception-v4. A
            pickle that holds more than tensors is refused, and its code does not run.
    """
    if weights.meaningless:
        return _seeded(int(weights.spec.removeprefix("seed:")))
    path = _download() if weights.spec == "pretrained" else weights.spec
    data = _read(path)
    if _sha256(data) != weights.digest:
        raise UserError(f"--weights {weights.spec}: {path} has SHA-256 {_sha256(data)[:8]}…, not "
                        f"{weights.digest[:8]}…: it is damaged or another version; delete or restore it.")
    return _fitted(_parsed(data, path, weights.spec), weights.spec)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("weights", uri, error) from error


def _download() -> str:
    """The path of the hub's file in the local cache (HF_HOME), downloaded (HF_ENDPOINT) if it is not there."""
    from huggingface_hub import (
        constants,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    try:
        cached = try_to_load_from_cache(HUB_REPO, HUB_FILE)
        if isinstance(cached, str):
            return cached
        # Ask once: hf_hub_download by itself goes on asking an unreachable hub for half a minute.
        get_hf_file_metadata(hf_hub_url(HUB_REPO, HUB_FILE), timeout=HUB_TIMEOUT_S)
        return hf_hub_download(HUB_REPO, HUB_FILE)
    except Exception as error:  # of its HTTP client, of the hub, of the disk: no common class
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise UserError(f"--weights pretrained: {HUB_REPO} cannot be had from {constants.ENDPOINT} "
                        f"({type(error).__name__}: {reason}); give the path of a .safetensors or .pth file, or seed:0 "
                        "for a trial.") from error


def _parsed(data: bytes, path: str, spec: str) -> Any:
    """What the file holds: for a sound file, a dict of names and tensors."""
    import safetensors.torch
    import torch
    try:
        if path.lower().endswith(".safetensors"):
            return safetensors.torch.load(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail anywhere in the parsers
        raise UserError(f"--weights {spec} is not a {Path(path).suffix} file of tensors only, or is damaged "
                        f"({type(error).__name__}).") from error


def _fitted(state: Any, spec: str) -> dict[str, Tensor]:
    """The state dict in float32, if it is one of Inception-v4."""
    import torch

    from pipeline.inception_v4 import InceptionV4
    if not (isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())):
        raise UserError(f"--weights {spec} holds something other than a state dict: names and tensors.")
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    head = [name for name in ("last_linear.weight", "last_linear.bias") if name in state]
    num_classes = len(state[head[0]]) if head and state[head[0]].ndim else 1000
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in InceptionV4(num_classes).state_dict().items()
                    if not name.endswith("num_batches_tracked")}
    for problem, names in (("lacks", expected.keys() - state.keys()), ("has unknown", state.keys() - expected.keys())):
        if names:
            raise UserError(f"--weights {spec} is not of Inception-v4: it {problem} {min(names)!r}"
                            f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}.")
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise UserError(f"--weights {spec} is not of Inception-v4: {name!r} has shape {list(state[name].shape)}, "
                            f"not {list(shape)}.")
        if not torch.isfinite(state[name]).all():
            raise UserError(f"--weights {spec}: {name!r} holds values that are not finite.")
    first = 1 if num_classes == 1001 else 0
    return {name: state[name][first if name in head else 0:].float().contiguous() for name in expected}


# Untrained weights. Convolutions are Kaiming-normal (fan-in, ReLU), BatchNorm does nothing: such a network hardly
# turns small differences of pixels into large ones, but its embeddings differ by little and default logits
# would give every image one label. So the head whitens: it projects on the first principal directions of a few
# synthetic images' embeddings, scales these to variance 1, and compares them with a random unit vector a class.

SEED_RECIPE = 1  # change it whenever seed:N gives other weights than before
SEED_IMAGES = 16  # more cost time at each start and add little
SEED_DIRECTIONS = 12
SEED_LOGIT_STD = 5  # top-1 of 1000 classes then mostly has a probability of 0.05 to 0.6


def _seeded(seed: int) -> dict[str, Tensor]:
    import torch

    from pipeline.inception_v4 import EMBEDDING_SIZE, INPUT_SIZE, InceptionV4
    # numpy's generator, since it gives the same numbers on every platform.
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
        embedding_ND = np.concatenate([network(part)[0].numpy() for part in image_NCHW.split(8)]).astype(np.float64)

    mean_D = embedding_ND.mean(0)
    _, scale, direction_KD = np.linalg.svd(embedding_ND - mean_D, full_matrices=False)
    direction_KD = direction_KD[:SEED_DIRECTIONS]
    std_K = scale[:SEED_DIRECTIONS] / np.sqrt(SEED_IMAGES)
    # V diag(1/std) V^T stays the same when a direction changes its sign, which another machine's SVD may do.
    class_CK = random.standard_normal((1000, EMBEDDING_SIZE)) @ direction_KD.T
    class_CK *= SEED_LOGIT_STD / np.linalg.norm(class_CK, axis=1, keepdims=True)
    head_CD = class_CK / std_K @ direction_KD
    state["last_linear.weight"] = torch.from_numpy(head_CD.astype(np.float32))
    state["last_linear.bias"] = torch.from_numpy((-head_CD @ mean_D).astype(np.float32))
    return state


def _synthetic_images(size: int) -> np.ndarray:
    """Normalised images, float32 [SEED_IMAGES, size, size, 3], always the same: noise as in photographs, stripes, discs.

    Each property takes evenly spaced values in a random order, so that few images span much.
    """
    random = np.random.Generator(np.random.Philox(0))

    def spread(low: float, high: float) -> np.ndarray:
        return random.permutation(np.linspace(low, high, SEED_IMAGES))

    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf  # noise has mean 0
    image_NHWC = np.empty((SEED_IMAGES, size, size, 3), np.float32)
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
