"""A fitted or trained model -> the two files that `jobs/label.py` reads: `weights.safetensors` and `classes.csv`.

In: a state dict with the keys of `InceptionV4`; a table of `classes.SCHEMA`; a folder, any fsspec URI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.store import storage
from pipeline.store.explain import explaining_errors

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CLASSES = "weights.safetensors", "classes.csv"


def save_model(state: Mapping[str, Tensor], classes: pa.Table, folder: str) -> None:
    """Write both files; each is put whole.

    Raises:
        UserError: the folder cannot be written.
    """
    import safetensors.torch
    tensors = {name: tensor.detach().to("cpu").float().contiguous() for name, tensor in state.items()
               if not name.endswith("num_batches_tracked")}
    with explaining_errors("--save", folder):
        storage.put_whole(storage.join(folder, WEIGHTS), safetensors.torch.save(tensors))
        storage.put_whole(storage.join(folder, CLASSES), classes.to_pandas().to_csv(index=False).encode())
