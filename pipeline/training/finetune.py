"""Fits a linear head for a user's own classes on the embeddings in the tables.

In: an output, the weights that labelled it, and its truth. Out: weights and classes for `jobs/label.py`.
No image is read. The SHA-256 of an image decides whether it is held out, so copies are never on both sides.
Not here: training the layers below the head (`train.py`).
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
from pipeline.model.spelling import first_few
from pipeline.store.uris import canonical_uri
from pipeline.truth.class_ids import find_targets, make_classes
from pipeline.truth.coverage import Coverage, join_truth, list_images
from pipeline.truth.holdout import is_held_out
from pipeline.truth.sources import Truth

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: a smaller C gives smaller weights
CHOICE_SHARE = 0.2  # of the images to fit: they choose the strength
MAX_ITERATIONS = 500

_EMBEDDINGS = """
SELECT embedding, sha256, value FROM labels JOIN truth USING (shard, key)
WHERE error IS NULL AND NOT strange ORDER BY shard, index"""


@dataclass
class Head:
    """A linear head and its figures. Shares are of 1.

    Attributes:
        state: the state dict of the network with this head.
        classes: a table of `classes.SCHEMA`.
        num_fitted, num_held_out: numbers of images.
        top1: the accuracy on the held out images; None if there are none.
        chance: the accuracy of always naming the most frequent class; None like `top1`.
        strength: the chosen one of `STRENGTHS`.
        num_of_class: the number of images of each class, by its unique name.
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
    """Fit a head for the classes that a truth names on the embeddings of an output.

    The method is multinomial logistic regression on embeddings scaled to mean 0 and variance 1. The scaling is then
    folded into the head. The strength is the one of `STRENGTHS` with the smallest loss on a part of the images that are
    not held out.

    Args:
        spec: the weights, a value of `--weights`.
        read: reads the truth; takes the images of the tables, a table of `IMAGES`.
        holdout: the share of the images that is held out.

    Raises:
        NothingMatches: no image has a truth.
        UserError: the output has no labels by these weights, no embeddings, or too few images of a class.
    """
    check_uri("output", output)
    base = weights.identify(spec)
    embedding_ND, sha256, values, coverage, kind = _read_embeddings(canonical_uri(output), base.model_id, read)
    classes = make_classes(values, kind)
    target_N = find_targets(values, classes)
    num_images_K = np.bincount(target_N, minlength=len(classes))
    num_of_class = dict(zip(unique_names(classes), num_images_K.tolist(), strict=True))
    held_out_N = np.array([is_held_out(digest, holdout) for digest in sha256])
    choosing_N = ~held_out_N & np.array([is_held_out(digest, CHOICE_SHARE, salt=1) for digest in sha256])
    fitting_N = ~held_out_N & ~choosing_N
    num_to_fit_K = np.bincount(target_N[fitting_N], minlength=len(classes))
    if not num_to_fit_K.all():
        lacking = [f"{name} ({num_of_class[name]:,} images)"
                   for name, number in zip(num_of_class, num_to_fit_K, strict=True) if not number]
        raise UserError(f"--truth: too few images of {first_few(lacking)}: none is left to fit, once {holdout:.0%} are "
                        f"held out and {CHOICE_SHARE:.0%} of the rest chosen by; add images, leave the class out, or "
                        "lower --holdout.")
    if not choosing_N.any():
        raise UserError(f"--truth: {len(values):,} images are too few: none is left to choose the head's strength by.")
    losses = []
    for strength in STRENGTHS:
        weight_KD, bias_K = _fit_regression(embedding_ND[fitting_N], target_N[fitting_N], strength)
        prob_NK = softmax(embedding_ND[choosing_N] @ weight_KD.T + bias_K, axis=1)
        losses.append(log_loss(target_N[choosing_N], prob_NK, labels=range(len(classes))))
    strength = STRENGTHS[int(np.argmin(losses))]
    weight_KD, bias_K = _fit_regression(embedding_ND[~held_out_N], target_N[~held_out_N], strength)
    state = weights.load(base) | {"last_linear.weight": torch.from_numpy(weight_KD),
                                    "last_linear.bias": torch.from_numpy(bias_K)}
    right_N = (embedding_ND[held_out_N] @ weight_KD.T + bias_K).argmax(1) == target_N[held_out_N]
    frequent = np.bincount(target_N[~held_out_N]).argmax()
    top1, chance = None, None
    if held_out_N.any():
        top1, chance = float(right_N.mean()), float((target_N[held_out_N] == frequent).mean())
    return Head(state, classes, int((~held_out_N).sum()), len(right_N), top1, chance, strength, coverage, num_of_class)


def _read_embeddings(output: str, model_id: str, read: Callable[[pa.Table], Truth]) -> tuple[
        np.ndarray, list[str], list[str], Coverage, str | None]:
    """Embeddings float32 [N, 1536], digests and truths of the images that have a truth, in the order of the tables.

    Also the coverage of the truth, and the kind of its values.
    """
    connection = connect(output, model_id)
    if "embedding" not in connection.sql("SELECT * FROM labels LIMIT 0").columns:
        raise UserError(f"--output {output} has no embeddings: label it without --output-embeddings false.")
    images = list_images(connection)
    truth = read(images)
    _, coverage = join_truth(connection, truth, output, images)
    table = connection.sql(_EMBEDDINGS).to_arrow_table()
    numbers = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    embedding_ND = numbers.astype(np.float32).reshape(-1, EMBEDDING_SIZE)
    return embedding_ND, table["sha256"].to_pylist(), table["value"].to_pylist(), coverage, truth.kind


def _fit_regression(embedding_ND: np.ndarray, target_N: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight float32 [K, 1536] and bias float32 [K] of a head for unscaled embeddings."""
    scaler = StandardScaler().fit(embedding_ND)
    fitted = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS).fit(scaler.transform(embedding_ND), target_N)
    weight_KD, bias_K = fitted.coef_, fitted.intercept_
    if len(weight_KD) == 1:  # for two classes scikit-learn gives only the logit of the second
        weight_KD, bias_K = np.vstack((0 * weight_KD, weight_KD)), np.concatenate((0 * bias_K, bias_K))
    weight_KD = weight_KD / scaler.scale_
    return weight_KD.astype(np.float32), (bias_K - weight_KD @ scaler.mean_).astype(np.float32)
