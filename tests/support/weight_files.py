"""Weights in small files, and how they are loaded or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.inception_v4 import InceptionV4


def hollow_state(num_classes: int = 1000) -> dict[str, Tensor]:
    """A state dict of the right names and shapes in a small file: each tensor is one stored zero."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in InceptionV4(num_classes).state_dict().items()}
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def save(state: Any, path: Path) -> str:
    torch.save(state, path)
    return str(path)


def load(spec: str) -> dict[str, Tensor]:
    return weights.load(weights.identify(spec))


def failure(spec: str) -> str:
    """The one sentence that tells why these weights cannot be had."""
    with pytest.raises(UserError) as error:
        load(spec)
    message = str(error.value)
    assert message.startswith("--weights ") and message.endswith(".") and "\n" not in message
    return message
