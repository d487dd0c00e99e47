"""One's own classes: a linear head fitted on the embeddings that the tables already hold.

In: an output, the weights it was labelled with, and its truth. Out: weights and classes that `jobs/label.py` takes.
No image is read. Which images are held out goes by their SHA-256, so copies of one are never on both sides.
Not here: the layers below the head (`train.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from pipeline.ask.query import connect
from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.classes import unique_names
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.store.uris import canonical_uri
from pipeline.truth.class_ids import find_targets, make_classes
from pipeline.truth.coverage import Coverage, first_few, join_truth, list_images
from pipeline.truth.holdout import is_held_out
from pipeline.truth.sources import Truth

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the smaller, the smaller the head's weights
CHOICE = 0.2  # of the images to fit, by which the strength is chosen
MAX_ITERATIONS = 500

_EMBEDDINGS = """
SELECT embedding, sha256, value FROM labels JOIN truth USING (shard, key) WHERE error IS NULL AND NOT strange ORDER BY shard, index"""


@dataclass
class Head:
    """A linear head, and how good it is on the images that were held out; shares are of 1.

    `chance`: what calling every image by the most frequent class would reach there; both None if no image is held out. `num_of_class`: images
    by class.
    """

    state: dict[str, Any]
    classes: pa.Table
    num_fitted: int
    num_held_out: int
    top1: float | None
    chance: float | None
    strength: float
    coverage: Coverage
    num_of_class: dict[str, int]


def fit(output: str, spec: str, read: Callable[[pa.Table], Truth], holdout: float) -> Head:
    """Fit a head for the classes that a truth names on the embeddings of an output; `spec` as `--weights` takes it.

    Args:
        read: the truth, given the images that the tables have (`IMAGES`).

    Multinomial logistic regression on embeddings of mean 0 and variance 1, which are then folded into the head; its
    strength is that of `STRENGTHS` with the least loss on a part of the images that are not held out.

    Raises:
        NothingMatches: the truth is of none of the images.
        UserError: the output has no labels by these weights, no embeddings, or too few images of a class.
    """
    check_uri("output", output)
    chosen = weights.identify(spec)
    embedding_ND, sha256, values, coverage, kind = _embeddings(canonical_uri(output), chosen.model_id, read)
    classes = make_classes(values, kind)
    target_N = find_targets(values, classes)
    num_of_class = dict(zip(unique_names(classes), np.bincount(target_N, minlength=len(classes)).tolist(), strict=True))
    outside = np.array([is_held_out(one, holdout) for one in sha256])
    choosing = ~outside & np.array([is_held_out(one, CHOICE, salt=1) for one in sha256])
    fitting = ~outside & ~choosing
    to_fit_K = np.bincount(target_N[fitting], minlength=len(classes))
    if not to_fit_K.all():
        short = [f"{name} ({num_of_class[name]:,} images)" for name, number in zip(num_of_class, to_fit_K, strict=True) if not number]
        raise UserError(f"--truth: too few images of {first_few(short)}: none is left to fit, once {holdout:.0%} are held out and {CHOICE:.0%} of the rest "
                        "chosen by; add images, leave the class out, or lower --holdout.")
    if not choosing.any():
        raise UserError(f"--truth: {len(values):,} images are too few: none is left to choose the head's strength by.")
    losses = []
    for strength in STRENGTHS:
        weight_KD, bias_K = _regression(embedding_ND[fitting], target_N[fitting], strength)
        losses.append(log_loss(target_N[choosing], softmax(embedding_ND[choosing] @ weight_KD.T + bias_K, axis=1),
                               labels=range(len(classes))))
    strength = STRENGTHS[int(np.argmin(losses))]
    weight_KD, bias_K = _regression(embedding_ND[~outside], target_N[~outside], strength)
    state = weights.load(chosen) | {"last_linear.weight": torch.from_numpy(weight_KD),
                                    "last_linear.bias": torch.from_numpy(bias_K)}
    right_N = (embedding_ND[outside] @ weight_KD.T + bias_K).argmax(1) == target_N[outside]
    frequent = np.bincount(target_N[~outside]).argmax()
    top1, chance = (float(right_N.mean()), float((target_N[outside] == frequent).mean())) if outside.any() else (None, None)
    return Head(state, classes, int((~outside).sum()), len(right_N), top1, chance, strength, coverage, num_of_class)


def _embeddings(output: str, model_id: str, read: Callable[[pa.Table], Truth]) -> tuple[np.ndarray, list[str], list[str], Coverage, str | None]:
    """Embeddings float32 [N, 1536], digests and truths of the images that have both, in order of the tables; and what the truths are."""
    connection = connect(output, model_id)
    if "embedding" not in connection.sql("SELECT * FROM labels LIMIT 0").columns:
        raise UserError(f"--output {output} has no embeddings: label it without --output-embeddings false.")
    images = list_images(connection)
    known = read(images)
    _, coverage = join_truth(connection, known, output, images)
    table = connection.sql(_EMBEDDINGS).to_arrow_table()
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.astype(np.float32).reshape(-1, EMBEDDING_SIZE), table["sha256"].to_pylist(), table["value"].to_pylist(), coverage, known.kind


def _regression(embedding_ND: np.ndarray, target_N: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight float32 [K, 1536] and bias float32 [K] of a head over embeddings as they are."""
    scaler = StandardScaler().fit(embedding_ND)
    fitted = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(scaler.transform(embedding_ND), target_N)
    weight_KD, bias_K = fitted.coef_, fitted.intercept_
    if len(weight_KD) == 1:  # of two classes scikit-learn gives the second's logit alone
        weight_KD, bias_K = np.vstack((0 * weight_KD, weight_KD)), np.concatenate((0 * bias_K, bias_K))
    weight_KD = weight_KD / scaler.scale_
    return weight_KD.astype(np.float32), (bias_K - weight_KD @ scaler.mean_).astype(np.float32)
