"""The weights: find, verify, load.

In: the value of `--weights`: `pretrained`, a path or URI of a file (`SUFFIXES`), or `seed:N`.
Out: the identity of the weights, which is cheap and which planning needs; then, on request, a state dict in float32.
Not here: the content of weights files (`state_dicts.py`), the weights of `seed:N` (`seeds.py`), the network's
arithmetic (`runners/`), and whether the classes match (`runners/checks.py`).

Only `load` imports torch: planning a run does not need it.
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
from pipeline.store.retry import describe_error
from pipeline.store.uris import canonical_uri

if TYPE_CHECKING:
    from torch import Tensor

HUB_REPO = "timm/inception_v4.tf_in1k"
HUB_FILE = "model.safetensors"
HUB_SHA256 = "a756a086851c8d5a8de135ec15c76b90ea56cb5aef450e3299107e659e725bb1"  # of HUB_FILE, 1000 classes
HUB_TIMEOUT_S = 5.0  # for the first answer of the hub
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
SEED_RECIPE = 1  # change it whenever seed:N gives other weights than before


@dataclass(frozen=True)
class Weights:
    """The identity of weights.

    Attributes:
        spec: the value of `--weights`; a local path is absolute.
        digest: the SHA-256 that identifies the weights.
    """

    spec: str
    digest: str

    @property
    def model_id(self) -> str:
        """A name of network and weights for folders and tables: `inception_v4-a756a086`."""
        return f"inception_v4-{self.digest[:8]}"

    @property
    def meaningless(self) -> bool:
        """True for untrained weights: their labels tell images apart, but mean nothing."""
        return self.spec.startswith("seed:")


def identify(spec: str) -> Weights:
    """The identity of the weights that `--weights spec` names. It needs no download and no torch.

    The digest of a file is that of its bytes, which are read once. The digest of `seed:N` is that of the recipe. The
    digest of `pretrained` is known beforehand.

    Raises:
        UserError: --weights does not take this value, or the file cannot be read.
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
        raise UserError(f"--weights {spec}: it takes 'pretrained', 'seed:N', or a file that ends in "
                        f"{', '.join(SUFFIXES)}.")
    return Weights(canonical_uri(spec), _sha256(_read(spec)))


def load(weights: Weights) -> dict[str, Tensor]:
    """The state dict, float32, with the keys of `InceptionV4` (without BatchNorm's batch counters).

    A file of 1001 classes loses the first one (Google's "background"), so that label_id 0 is the first class of
    ImageNet-1k. `state_dicts.read_state_dict` removes what tools put around a state dict.

    Raises:
        UserError: the hub or the file cannot be read, the file is not the one that `identify` read, or the weights do
            not fit Inception-v4. A pickle that holds more than tensors is refused, and its code does not run.
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
    """The path of the hub's file in the local cache (HF_HOME). If it is not there, it is downloaded (HF_ENDPOINT)."""
    import huggingface_hub as hub
    try:
        cached = hub.try_to_load_from_cache(HUB_REPO, HUB_FILE)
        if isinstance(cached, str):
            return cached
        # Ask once: hf_hub_download alone would ask an unreachable hub for half a minute.
        hub.get_hf_file_metadata(hub.hf_hub_url(HUB_REPO, HUB_FILE), timeout=HUB_TIMEOUT_S)
        return hub.hf_hub_download(HUB_REPO, HUB_FILE)
    except Exception as error:  # errors of the HTTP client, the hub and the disk have no common class
        raise UserError(f"--weights pretrained: {HUB_REPO} cannot be had from {hub.constants.ENDPOINT} "
                        f"({type(error).__name__}: {describe_error(error, 200)}); give the path of a file, or seed:0 "
                        "for a trial.") from error
