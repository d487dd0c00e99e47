"""The embedding of one image that is in no table, as the model of an output computes it, on a processor.

In: a file, an output. Out: float32 [1536], in fp32; seconds, most of them to load the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.config import Config, check_uri
from pipeline.embeddings.relabel.run import find_weights
from pipeline.errors import UserError
from pipeline.images.decode import REASONS, decode
from pipeline.model import weights
from pipeline.model.spec import INPUT_SIZE
from pipeline.runners.labeller import Labeller
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.tables.labels import split_answers


def embed_image(uri: str, output: str, model_id: str) -> np.ndarray[Any, Any]:
    """The embedding of an image file.

    Raises:
        UserError: the file cannot be read or is no image, or the weights of the model cannot be found.
    """
    check_uri("set", uri)
    with explaining_errors("--set image", uri):
        encoded = storage.read_bytes(uri)
    pixels_NHWC = np.zeros((1, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    decoded = decode(encoded, pixels_NHWC[0], max_pixels=Config.max_image_pixels, max_bytes=Config.max_image_bytes)
    if decoded.error:
        raise UserError(f"--set image={uri}: {decoded.error}: {REASONS[decoded.error]}.")
    labeller = Labeller(weights.load(find_weights(output, model_id, None)), "cpu", "fp32", runner="plain")
    embedding_D: np.ndarray[Any, Any] = split_answers(labeller(pixels_NHWC)).embedding[0]
    return embedding_D
