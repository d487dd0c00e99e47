"""The bytes of a weights file -> the state dict of Inception-v4 that is in it.

In: a safetensors file, or what `torch.save` writes, told by content. Out: names and tensors in float32; or `Unfit`, which says
what the file is instead, or what to do.
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
from pipeline.store.contents import name_contents

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "ema", "state_dict_ema")  # around a state dict
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "ema.")  # of DataParallel, torch.compile, Lightning
COUNTERS = ("num_batches_tracked", "n_averaged")  # of BatchNorm and of moving averages: no part of the network
HEAD = ("last_linear.weight", "last_linear.bias")
BACKGROUND = 1001  # classes of Google's files, whose first is none
NAMED = 3  # keys in a sentence
SAFE = b"{"  # behind the length of the header, in a safetensors file
LOAD = "torch.load(FILE, 'cpu', weights_only=False)"  # what was read here holds no code that could run
SAFE_LOAD = "safetensors.torch.load_file(FILE)"
SAVE = "save its state_dict: torch.save(model.state_dict(), FILE)"


class Unfit(Exception):
    """The file has no weights for this network. The message follows the file's name, without a full stop."""


def read_state_dict(data: bytes) -> dict[str, Tensor]:
    """The state dict, float32, with the keys of `InceptionV4` (without BatchNorm's batch counters).

    It may be in a dict of its own (`WRAPPERS`), and its keys behind `PREFIXES`. Of 1001 classes the first is dropped.

    Raises:
        Unfit: the file is damaged, needs code, or its tensors are not exactly those of the network.
    """
    taken, state = _unwrapped(_parsed(data), SAFE_LOAD if data[8:9] == SAFE else LOAD)
    return _fitted(_without_prefixes(state, taken))


def _parsed(data: bytes) -> Any:
    """What the file holds: for a sound file, a dict with tensors in it."""
    try:
        if data[8:9] == SAFE:
            return safetensors.torch.load(data)
        with warnings.catch_warnings():  # of old formats, which are no concern of the user's
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals([argparse.Namespace]):  # the flags of a trainer, which timm's keeps; no code of it runs
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail anywhere in the parsers
        said = " ".join(str(error).split())
        if "TorchScript" in said:
            raise Unfit(f"is a TorchScript archive, not a file of tensors only; {SAVE}") from error
        code = re.search(r"(?:GLOBAL|global:?|class) ([\w.]+\.[\w.]+)", said) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise Unfit(f"is not a file of tensors only: it needs code ({code[1]}), which is not run; {SAVE}") from error
        contents = name_contents(data[:512])
        what = f": it is {contents}" if contents and contents != "a zip archive" else f" ({type(error).__name__})"
        what += f", of which only tensors are read; {SAVE}" if contents == "a Python pickle" else ""
        raise Unfit(f"is not a file of tensors only, or is damaged{what}") from error


def _unwrapped(held: Any, load: str) -> tuple[str, dict[str, Tensor]]:
    """The only state dict in what a file holds, and how Python takes it from the file. It may be some dicts deep."""
    found = dict(_state_dicts(held, ""))
    taken = {name: load + "".join(f"[{key!r}]" for key in name.split(".") if key) for name in found}
    if len(found) > 1:
        last = list(found)[-1]
        raise Unfit(f"holds {len(found)} state dicts, under {' and '.join(map(repr, found))}; save the one that is meant alone, such as "
                    f"{last!r}: torch.save({taken[last]}, NEW)")
    if not found:
        raise Unfit(f"holds something other than a state dict: names and tensors; {SAVE}")
    name, state = next(iter(found.items()))
    return taken[name], state


def _state_dicts(held: Any, name: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(held, Mapping) or depth > len(WRAPPERS):
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in held.items()):
        yield name, dict(held)
        return
    for key in WRAPPERS:
        if isinstance(held.get(key), Mapping) and held[key]:  # an empty one is none
            yield from _state_dicts(held[key], f"{name}.{key}".lstrip("."), depth + 1)


def _without_prefixes(state: dict[str, Tensor], taken: str) -> dict[str, Tensor]:
    """The tensors by the names that they have in the network itself; without counters. `taken`: how Python takes them from the file."""
    named: dict[str, tuple[str, Tensor]] = {}
    for key, tensor in state.items():
        name = key.replace("._orig_mod.", ".").replace(".module.", ".")  # of a part that was compiled or wrapped alone
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name in named:
            prefix = key.removesuffix(name) or named[name][0].removesuffix(name)
            raise Unfit(f"has two tensors for {name!r}, {named[name][0]!r} and {key!r}; save those that are meant alone, such as: torch.save("
                        f"{{k: v for k, v in {taken}.items() if k.startswith({prefix!r})}}, NEW)")
        if not name.endswith(COUNTERS):
            named[name] = key, tensor
    return {name: tensor for name, (_, tensor) in named.items()}


def _fitted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in float32, if they are exactly the network's."""
    head = next((state[name] for name in HEAD if name in state and state[name].ndim), None)
    num_classes = 1000 if head is None else len(head)
    if not num_classes:
        raise Unfit("has a head without outputs; a network has at least one class")
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in InceptionV4(num_classes).state_dict().items() if not name.endswith(COUNTERS)}
    wrong = [f"{name!r} has shape {list(state[name].shape)}, not {list(shape)}" for name, shape in expected.items()
             if name in state and state[name].shape != shape]
    faults = [f"it {verb} {_few([repr(name) for name in sorted(names)])}" for verb, names in
              (("lacks", expected.keys() - state.keys()), ("has unknown", state.keys() - expected.keys())) if names]
    if faults or wrong:
        raise Unfit(f"is not of Inception-v4: {'; '.join(faults + ([_few(wrong)] if wrong else []))}")
    first = 1 if num_classes == BACKGROUND else 0
    fitted = {}
    for name in expected:
        tensor = state[name].detach()
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized or not tensor.is_floating_point():
            raise Unfit(f"has {name!r} as {str(tensor.dtype).removeprefix('torch.')} ({tensor.layout}, {tensor.device}), which is no plain "
                        "floating-point tensor; save the weights in float32")
        fitted[name] = tensor[first if name in HEAD else 0:].float().contiguous()
        if not torch.isfinite(fitted[name]).all():
            raise Unfit(f"has values in {name!r} that are not finite")
    return fitted


def _few(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
