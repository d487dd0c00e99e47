"""What timm's network answers, and how far answers are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.runners.labeller import Labeller
from pipeline.tables.labels import Answers, split_answers

NUM_CLASSES = 20


def timms_answers(theirs: Any, image_NHWC: np.ndarray) -> tuple[Tensor, Tensor]:
    image_NCHW = torch.tensor(image_NHWC).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.inference_mode():
        features_NCHW = theirs.forward_features(image_NCHW)
        return (theirs.forward_head(features_NCHW, pre_logits=True).float(),
                theirs.forward_head(features_NCHW).float())


def relative_error(found: Tensor, expected: Tensor) -> Tensor:
    """Of each row, by norms."""
    return (found - expected).norm(dim=1) / expected.norm(dim=1)


def ask(labeller: Labeller, image_NHWC: np.ndarray) -> Answers:
    return split_answers(labeller(image_NHWC))
