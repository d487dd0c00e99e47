"""The claim of a training on its folder: a note of what is trained there, and of what the training began with.

In: the folder of `--save`. Out: `training.json` in it; or the reason why another training may not use the folder.
Not here: two trainings at the same time (`store/lease.py`).
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
    """Raise UserError if the new weights would overwrite those with which the training begins, in any spelling."""
    if start is None or start == "pretrained" or start.startswith("seed:"):
        return
    saved, read = (storage.locate(uri) for uri in (storage.join(folder, WEIGHTS), start))
    if type(saved[0]) is type(read[0]) and saved[1] == read[1]:
        raise UserError(f"--save {folder} would overwrite --weights {start}, with which training begins: name another "
                        "folder.")


def check_claim(folder: str, claim: dict[str, Any]) -> bool:
    """Whether the folder has this claim already.

    Raises:
        UserError: it has another claim, or cannot be read.
    """
    with explaining_errors("--save", folder):
        try:
            stored = json.loads(storage.read_bytes(storage.join(folder, CLAIM)))
        except FileNotFoundError:
            return False
    if stored == claim:
        return True
    different = [name for name in claim if name != "recipe" and stored.get(name) != claim[name]]
    different += [name for name, value in claim["recipe"].items() if stored.get("recipe", {}).get(name) != value]
    raise UserError(f"--save {folder} holds a training with another {' and '.join(different)}: name another folder, or "
                    "what it began with.")


def claim_folder(folder: str, claim: dict[str, Any]) -> None:
    """Write the claim into the folder. Raises UserError if the folder has another one."""
    if check_claim(folder, claim):
        return
    with explaining_errors("--save", folder):
        data = json.dumps(claim, indent=2, sort_keys=True) + "\n"
        storage.put_whole(storage.join(folder, CLAIM), data.encode())
