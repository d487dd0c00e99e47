"""The bytes of a weights file -> the state dict of Inception-v4 in it.

In: a safetensors file, or a file that `torch.save` wrote; the content says which.
Out: names and tensors, float32; or `Unfit`, which says what the file is instead, or what the user can do.
Only tensors are read: code in a pickle does not run.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pipeline.model.inception_v4 import InceptionV4
from pipeline.model.spec import NUM_IMAGENET_CLASSES, NUM_WITH_BACKGROUND
from pipeline.model.spelling import first_few
from pipeline.store.contents import name_contents

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "ema", "state_dict_ema")  # keys of a state dict
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "ema.")  # of DataParallel, torch.compile, Lightning
COUNTERS = ("num_batches_tracked", "n_averaged")  # of BatchNorm and of moving averages: no part of the network
HEAD = ("last_linear.weight", "last_linear.bias")
SAFETENSORS_MARK = b"{"  # the byte behind the length of the header
# Code for the user. The file has been read here already, so it holds no code that could run.
LOAD_CODE = "torch.load(FILE, 'cpu', weights_only=False)"
LOAD_SAFETENSORS_CODE = "safetensors.torch.load_file(FILE)"
SAVE_ADVICE = "save its state_dict: torch.save(model.state_dict(), FILE)"


class Unfit(Exception):
    """The file has no weights for this network. The message follows the file's name, without a full stop."""


def read_state_dict(data: bytes) -> dict[str, Tensor]:
    """The state dict, float32, with the keys of `InceptionV4` (without BatchNorm's batch counters).

    The state dict may be in another dict (`WRAPPERS`), and its keys may have `PREFIXES`. Of 1001 classes the first is
    dropped.

    Raises:
        Unfit: the file is damaged, needs code, or its tensors are not exactly those of the network.
    """
    load_code = LOAD_SAFETENSORS_CODE if data[8:9] == SAFETENSORS_MARK else LOAD_CODE
    code, state = _find_state_dict(_parse(data), load_code)
    return _check_tensors(_remove_prefixes(state, code))


def _parse(data: bytes) -> Any:
    """The object in the file: in a sound file a dict with tensors in it."""
    try:
        if data[8:9] == SAFETENSORS_MARK:
            return safetensors.torch.load(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats; the user can do nothing
            # timm's trainer keeps its flags in the file, as a Namespace. No code of that class runs.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the parsers
        raise Unfit(_explain_no_tensors(data, error)) from error


def _explain_no_tensors(data: bytes, error: Exception) -> str:
    message = " ".join(str(error).split())
    if "TorchScript" in message:
        return f"is a TorchScript archive, not a file of tensors only; {SAVE_ADVICE}"
    code = re.search(r"(?:GLOBAL|global:?|class) ([\w.]+\.[\w.]+)", message)
    if code and isinstance(error, pickle.UnpicklingError):
        return f"is not a file of tensors only: it needs code ({code[1]}), which is not run; {SAVE_ADVICE}"
    contents = name_contents(data[:512])
    if contents == "a Python pickle":
        return ("is not a file of tensors only, or is damaged: it is a Python pickle, of which only tensors are read; "
                f"{SAVE_ADVICE}")
    is_known = contents and contents != "a zip archive"
    return ("is not a file of tensors only, or is damaged"
            + (f": it is {contents}" if is_known else f" ({type(error).__name__})"))


def _find_state_dict(content: Any, load_code: str) -> tuple[str, dict[str, Tensor]]:
    """The code with which Python takes the only state dict out of the file, and that state dict."""
    state_of = dict(_iterate_state_dicts(content, ""))
    code_of = {name: load_code + "".join(f"[{key!r}]" for key in name.split(".") if key) for name in state_of}
    if len(state_of) > 1:
        last = list(state_of)[-1]
        raise Unfit(f"holds {len(state_of)} state dicts, under {' and '.join(map(repr, state_of))}; save the one that "
                    f"is meant alone, such as {last!r}: torch.save({code_of[last]}, NEW)")
    if not state_of:
        raise Unfit(f"holds something other than a state dict: names and tensors; {SAVE_ADVICE}")
    name, state = next(iter(state_of.items()))
    return code_of[name], state


def _iterate_state_dicts(content: Any, name: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every state dict in a content with its name: its keys in the dicts around it, joined by dots."""
    if not isinstance(content, Mapping) or depth > len(WRAPPERS):
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        yield name, dict(content)
        return
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping) and content[key]:  # an empty dict is no state dict
            yield from _iterate_state_dicts(content[key], f"{name}.{key}".lstrip("."), depth + 1)


def _remove_prefixes(state: dict[str, Tensor], code: str) -> dict[str, Tensor]:
    """The tensors by their names in the network, without counters. `code` takes `state` out of the file."""
    key_and_tensor: dict[str, tuple[str, Tensor]] = {}
    for key, tensor in state.items():
        name = key.replace("._orig_mod.", ".").replace(".module.", ".")  # of a part that was compiled or wrapped alone
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in key_and_tensor:
            other_key = key_and_tensor[name][0]
            prefix = key.removesuffix(name) or other_key.removesuffix(name)
            raise Unfit(f"has two tensors for {name!r}, {other_key!r} and {key!r}; save those that are meant alone, "
                        f"such as: torch.save({{k: v for k, v in {code}.items() if k.startswith({prefix!r})}}, NEW)")
        if not name.endswith(COUNTERS):
            key_and_tensor[name] = key, tensor
    return {name: tensor for name, (_, tensor) in key_and_tensor.items()}


def _check_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32. Raises Unfit unless they are exactly the network's."""
    head = next((state[name] for name in HEAD if name in state and state[name].ndim), None)
    num_classes = NUM_IMAGENET_CLASSES if head is None else len(head)
    if not num_classes:
        raise Unfit("has a head without outputs; a network has at least one class")
    with torch.device("meta"):
        shape_of = {name: tensor.shape for name, tensor in InceptionV4(num_classes).state_dict().items()
                    if not name.endswith(COUNTERS)}
    wrong_shapes = [f"{name!r} has shape {list(state[name].shape)}, not {list(shape)}"
                    for name, shape in shape_of.items() if name in state and state[name].shape != shape]
    lacking, unknown = shape_of.keys() - state.keys(), state.keys() - shape_of.keys()
    faults = [f"it {verb} {first_few([repr(name) for name in sorted(names)])}"
              for verb, names in (("lacks", lacking), ("has unknown", unknown)) if names]
    if faults or wrong_shapes:
        raise Unfit("is not of Inception-v4: "
                    f"{'; '.join(faults + ([first_few(wrong_shapes)] if wrong_shapes else []))}")
    first_class = 1 if num_classes == NUM_WITH_BACKGROUND else 0
    return {name: _to_float(name, state[name], first_class if name in HEAD else 0) for name in shape_of}


def _to_float(name: str, tensor: Tensor, start: int) -> Tensor:
    """The rows of a tensor from `start`, float32. Raises Unfit unless they are plain, finite floating-point numbers."""
    tensor = tensor.detach()
    is_plain = not tensor.is_meta and tensor.layout == torch.strided and not tensor.is_quantized
    if not is_plain or not tensor.is_floating_point():
        raise Unfit(f"has {name!r} as {str(tensor.dtype).removeprefix('torch.')} ({tensor.layout}, {tensor.device}), "
                    "which is no plain floating-point tensor; save the weights in float32")
    tensor = tensor[start:].float().contiguous()
    if not torch.isfinite(tensor).all():
        raise Unfit(f"has values in {name!r} that are not finite")
    return tensor
