"""A folder belongs to one training: what is trained there, and with what it began.

In: the folder of `--save`. Out: `training.json` in it; or why another training may not have the folder.
Not here: two at the same time (`lease.py`).
"""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.trainer.saved import WEIGHTS

CLAIM = "training.json"


def check_not_overwritten(folder: str, start: str | None) -> None:
    """Raise UserError if training would put its weights over those that it begins with, however the two are spelled."""
    if start is None or start == "pretrained" or start.startswith("seed:"):
        return
    ours, theirs = (storage.locate(uri) for uri in (storage.join(folder, WEIGHTS), start))
    if type(ours[0]) is type(theirs[0]) and ours[1] == theirs[1]:
        raise UserError(f"--save {folder} would overwrite --weights {start}, with which training begins: name another folder.")


def check_claim(folder: str, what: dict[str, Any]) -> bool:
    """Whether the folder is already claimed for this training. Raises UserError if it is for another, or cannot be read."""
    with explaining_errors("--save", folder):
        try:
            stored = json.loads(storage.read_bytes(storage.join(folder, CLAIM)))
        except FileNotFoundError:
            return False
    if stored == what:
        return True
    other = [name for name in what if name != "recipe" and stored.get(name) != what[name]]
    other += [name for name, value in what["recipe"].items() if stored.get("recipe", {}).get(name) != value]
    raise UserError(f"--save {folder} holds a training with another {' and '.join(other)}: name another folder, or what it began with.")


def claim(folder: str, what: dict[str, Any]) -> None:
    """Note in the folder what is trained there. Raises UserError if that was something else."""
    if check_claim(folder, what):
        return
    with explaining_errors("--save", folder):
        storage.put_whole(storage.join(folder, CLAIM), (json.dumps(what, indent=2, sort_keys=True) + "\n").encode())
