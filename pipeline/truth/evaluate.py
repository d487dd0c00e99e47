"""The quality of the labels of an output: its tables against the truth.

In: an output and its truth. Out: an `Evaluation`: accuracy, calibration, confusions, and the usual faults.
No image is read again: DuckDB joins the tables with the truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ask.query import connect
from pipeline.config import check_uri
from pipeline.model.classes import SCHEMA, load_classes
from pipeline.model.spec import NUM_IMAGENET_CLASSES
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.uris import canonical_uri
from pipeline.tables.owner.models import only_model
from pipeline.truth.class_ids import resolve_label_ids
from pipeline.truth.coverage import Coverage, first_example, join_truth, list_images
from pipeline.truth.sources import Truth

REFERENCE = (0.8014, 0.9498)  # top-1, top-5: timm's inception_v4.tf_in1k
REFERENCE_SET = "timm on ImageNet-1k's 50,000 validation images, 299 px, crop 0.875, bicubic"
# Of confidence, as in Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599).
CALIBRATION_BINS = 15
TABLES = ("by_class", "confusions", "calibration")  # of an `Evaluation`; a CSV each
MIN_RIGHT_AFTER_FIX = 10  # images; a fault is named only if so many are right without it

# A truth that is no class has the label_id null, and no label is right for it.
_JUDGED = """
CREATE OR REPLACE TEMP TABLE judged AS
SELECT truth_ids.label_id AS truth, truth_ids.value AS value, labels.label_id AS said, prob, error,
       hash(shard, key) % 2 AS half,
       coalesce(labels.label_id = truth_ids.label_id, false) AS right1,
       coalesce(list_contains(list_transform(top5, lambda one: one.label_id), truth_ids.label_id), false) AS right5
FROM labels JOIN truth_ids USING (shard, key)"""
_TOTALS = """
SELECT count(*), count(error), coalesce(avg(right1::INT), 0), coalesce(avg(right5::INT), 0),
       coalesce(avg(coalesce(said = truth + 1, false)::INT), 0), coalesce(avg(coalesce(said = truth - 1, false)::INT),
       0)
FROM judged"""
_REORDERED = """
WITH learned AS (SELECT value, mode(said) AS said FROM judged WHERE half = 0 AND error IS NULL GROUP BY value)
SELECT coalesce(avg(coalesce(judged.said = learned.said, false)::INT), 0), count(*),
       (SELECT count(*) = count(DISTINCT said) FROM learned)
FROM judged JOIN learned USING (value) WHERE half = 1"""
_CALIBRATION = f"""
SELECT greatest(ceil(prob * {CALIBRATION_BINS})::INT - 1, 0) / {CALIBRATION_BINS} AS above, count(*) AS images,
       avg(prob::DOUBLE) AS confidence, avg(right1::INT) AS accuracy
FROM judged WHERE error IS NULL GROUP BY ALL ORDER BY above"""
_CLASSES = """
SELECT classes.label_id::INT AS label_id, wnid, label, count(truth) AS images, avg(right1::INT) AS top1,
       avg(right5::INT) AS top5
FROM classes LEFT JOIN judged ON truth = classes.label_id GROUP BY ALL
UNION ALL
SELECT CASE WHEN regexp_full_match(value, '-?[0-9]{1,9}') THEN value::INT END, NULL, value, count(*), 0, 0
FROM judged WHERE truth IS NULL GROUP BY value
ORDER BY label_id NULLS LAST, label"""
_CONFUSIONS = """
SELECT truth AS label_id, coalesce(is_class.label, value) AS label, said AS said_id, is_said.label AS said,
       count(*) AS images
FROM judged LEFT JOIN classes is_class ON is_class.label_id = truth LEFT JOIN classes is_said ON is_said.label_id = said
WHERE NOT right1 AND error IS NULL GROUP BY ALL ORDER BY images DESC, 1, 2, 3"""


@dataclass
class Evaluation:
    """The figures of one model. Shares are of 1. A rejected image counts as wrong, but not for the calibration.

    Attributes:
        truth_by: what names the classes in the truth: `wnid`, `label` or `label_id`.
        num_images: images with a truth.
        num_rejected: rejected images among them.
        num_foreign: truths that name no class of the model; `foreign_example` is one of them.
        top1, top5: shares of the images with a truth.
        ece: expected calibration error over `CALIBRATION_BINS` equal bins.
        top1_one_higher, top1_one_lower: the share of labels that are one higher, or lower, than the truth.
        imagenet_1k: True if the model has the classes of ImageNet-1k.
        finding: a sentence with the probable cause of bad figures; None if there is none.
        coverage: of all images, with and without a truth.
        by_class, confusions, calibration: tables with a row for each class, each pair of classes, each bin.
    """

    model_id: str
    truth_by: str
    num_images: int
    num_rejected: int
    num_foreign: int
    foreign_example: str | None
    top1: float
    top5: float
    ece: float
    top1_one_higher: float
    top1_one_lower: float
    imagenet_1k: bool
    finding: str | None
    coverage: Coverage
    by_class: pa.Table
    confusions: pa.Table
    calibration: pa.Table


def evaluate(output: str, model_id: str | None, read: Callable[[pa.Table], Truth]) -> Evaluation:
    """Compare the labels of one model with the truth.

    Args:
        model_id: None: the only model of the output.
        read: reads the truth; takes the images of the tables, a table of `IMAGES`.

    Raises:
        NothingMatches: no image has a truth.
        UserError: the output has no tables or several models, or the truth names no class of the model.
    """
    check_uri("output", output)
    output = canonical_uri(output)
    model_id = model_id or only_model(output)
    connection = connect(output, model_id)
    images = list_images(connection)
    truth = read(images)
    matched, coverage = join_truth(connection, truth, output, images)
    classes = connection.sql("SELECT label_id, wnid, label FROM classes ORDER BY label_id").to_arrow_table()
    classes = classes.cast(SCHEMA)
    label_id, truth_by = resolve_label_ids(matched.truth["value"].combine_chunks(), classes, truth.kind)
    label_id = pc.if_else(matched.truth["strange"].combine_chunks(), pa.scalar(None, pa.int32()), label_id)
    foreign = matched.truth.filter(pc.is_null(label_id))
    truth_ids = matched.truth.select(["shard", "key", "value"]).append_column("label_id", label_id)
    connection.register("truth_ids", truth_ids)
    connection.execute(_JUDGED)
    num_images, num_rejected, top1, top5, higher, lower = connection.sql(_TOTALS).fetchall()[0]
    reordered, num_tested, one_to_one = connection.sql(_REORDERED).fetchall()[0]
    calibration = connection.sql(_CALIBRATION).to_arrow_table()
    num_answered = max(num_images - num_rejected, 1)
    ece = sum(bin["images"] / num_answered * abs(bin["accuracy"] - bin["confidence"])
              for bin in calibration.to_pylist())
    imagenet = classes["wnid"].equals(load_classes()["wnid"])
    finding = _find_shift(num_images, top1, higher, lower, imagenet)
    if finding is None and one_to_one:
        finding = _find_reorder(num_tested, top1, reordered, truth_by, len(matched.truth["value"].unique()))
    return Evaluation(
        model_id, truth_by, num_images, num_rejected, len(foreign), first_example(foreign) or None, top1, top5, ece,
        higher, lower, imagenet, finding, coverage, connection.sql(_CLASSES).to_arrow_table(),
        connection.sql(_CONFUSIONS).to_arrow_table(), calibration)


def _find_shift(num_images: int, top1: float, higher: float, lower: float, imagenet: bool) -> str | None:
    """A sentence, if most labels are one higher or one lower than the truth."""
    shifted = max(higher, lower)
    if not _is_fault(num_images, top1, shifted):
        return None
    if higher > lower and imagenet:
        cause = 'the network has 1001 classes and its class 0, "background", was not dropped'
    elif higher > lower:
        cause = "the model's classes have one more before them than the truth counts"
    else:
        cause = 'the truth counts from 1, or has a "background" as its class 0'
    return (f"The labels are {'one higher' if higher > lower else 'one lower'} than the truth: with that put right "
            f"top-1 would be {shifted:.2%} instead of {top1:.2%}. Most likely {cause}.")


def _find_reorder(num_tested: int, top1: float, reordered: float, truth_by: str, num_classes: int) -> str | None:
    """A sentence, if the labels are right in another order of the classes.

    Half of the images teaches that order. `reordered` is the top-1 of the other half, `num_tested` images, in it.
    """
    if not _is_fault(num_tested, top1, reordered):
        return None
    if truth_by == "label_id" and num_classes == NUM_IMAGENET_CLASSES:
        cause = ("the truth has the numbers of ILSVRC2012's devkit (ILSVRC2012_ID), which are not in the order of the "
                 "wnids: take its wnids")
    else:
        cause = ("the file of --classes lists them in another order than the network's outputs, or the truth numbers "
                 "them in another order")
    return ("The labels are those of the truth in another order of the classes: with that put right top-1 would be "
            f"{reordered:.2%} instead of {top1:.2%}. Most likely {cause}.")


def _is_fault(num_images: int, top1: float, top1_after_fix: float) -> bool:
    is_enough = top1_after_fix * num_images >= MIN_RIGHT_AFTER_FIX
    return is_enough and top1_after_fix >= 2 * top1 and top1_after_fix >= top1 + 0.1


def list_figures(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation by name, without its tables."""
    return {name: value for name, value in asdict(evaluation).items() if name not in TABLES}


def save_evaluation(evaluation: Evaluation, folder: str) -> None:
    """Write `evaluation.json`, `by_class.csv`, `confusions.csv` and `calibration.csv` into a folder (any fsspec URI).

    Raises:
        UserError: the folder cannot be written.
    """
    check_uri("save", folder)
    folder = canonical_uri(folder)
    figures = list_figures(evaluation)
    with explaining_errors("--save", folder):
        storage.put_whole(storage.join(folder, "evaluation.json"), (json.dumps(figures, indent=2) + "\n").encode())
        for name in TABLES:
            storage.put_whole(storage.join(folder, f"{name}.csv"),
                              getattr(evaluation, name).to_pandas().to_csv(index=False).encode())
