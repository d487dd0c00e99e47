"""The weights: find, verify, load.

In: the value of `--weights`: `pretrained`, a path or URI of a file (`SUFFIXES`), or `seed:N`.
Out: first the weights' identity, which planning needs and which is cheap; then, on request, a state dict in float32.
Not here: what files hold (`state_dicts.py`), how `seed:N` is made (`seeds.py`), the network's arithmetic (`labeller.py`), and
whether the classes match (`labeller.check_classes`).

torch is imported by `load`, not before: planning a run does without it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.uris import canonical_uri

if TYPE_CHECKING:
    from torch import Tensor

HUB_REPO = "timm/inception_v4.tf_in1k"
HUB_FILE = "model.safetensors"
HUB_SHA256 = "a756a086851c8d5a8de135ec15c76b90ea56cb5aef450e3299107e659e725bb1"  # of HUB_FILE, 1000 classes
HUB_TIMEOUT_S = 5.0  # for the hub's first answer
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
SEED_RECIPE = 1  # change it whenever seed:N gives other weights than before


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
    check_uri("weights", spec)
    if not spec.lower().endswith(SUFFIXES):
        raise UserError(f"--weights {spec}: it takes 'pretrained', 'seed:N', or a file that ends in {', '.join(SUFFIXES)}.")
    return Weights(canonical_uri(spec), _sha256(_read(spec)))


def load(weights: Weights) -> dict[str, Tensor]:
    """The state dict, float32, with the keys of `InceptionV4` (without BatchNorm's batch counters).

    A file of 1001 classes loses the first (Google's "background"), so that label_id 0 is ImageNet-1k's first class.
    What tools put around a state dict is taken off: see `state_dicts.read`.

    Raises:
        UserError: the hub or file cannot be read, is not what `identify` saw, or does not fit Inception-v4. A
            pickle that holds more than tensors is refused, and its code does not run.
    """
    from pipeline.model import seeds, state_dicts
    if weights.meaningless:
        return seeds.make_untrained_weights(int(weights.spec.removeprefix("seed:")))
    path = _download() if weights.spec == "pretrained" else weights.spec
    data = _read(path)
    if _sha256(data) != weights.digest:
        raise UserError(f"--weights {weights.spec}: {path} has SHA-256 {_sha256(data)[:8]}…, not "
                        f"{weights.digest[:8]}…: it is damaged or another version; delete or restore it.")
    try:
        return state_dicts.read_state_dict(data)
    except state_dicts.Unfit as error:
        raise UserError(f"--weights {weights.spec} {error}.") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(uri: str) -> bytes:
    with explaining_errors("--weights", uri):
        return storage.read_bytes(uri)


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
                        f"({type(error).__name__}: {reason}); give the path of a file, or seed:0 for a trial.") from error
