"""How good the labels of an output are: its tables against the truth.

In: an output, and its truth. Out: an `Evaluation`: accuracy, calibration, confusions, and the classic faults.
The images are not looked at again: DuckDB joins the tables with the truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ask.query import connect
from pipeline.config import check_uri
from pipeline.model.classes import SCHEMA, load_classes
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.uris import canonical_uri
from pipeline.tables.models import only_model
from pipeline.truth.class_ids import resolve_label_ids
from pipeline.truth.coverage import Coverage, first_example, join_truth, list_images
from pipeline.truth.sources import Truth

REFERENCE = (0.8014, 0.9498)  # top-1, top-5: timm's inception_v4.tf_in1k
REFERENCE_SET = "timm on ImageNet-1k's 50,000 validation images, 299 px, crop 0.875, bicubic"
CALIBRATION_BINS = 15  # of confidence, as in Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599)
FEWEST_MENDED = 10  # images that must be right once a fault is put right, before it is named
DEVKIT_CLASSES = 1000

# A truth that is no class has label_id null, and is never right.
_JUDGED = """
CREATE OR REPLACE TEMP TABLE judged AS
SELECT meant.label_id AS truth, meant.value AS value, labels.label_id AS said, prob, error, hash(shard, key) % 2 AS half,
       coalesce(labels.label_id = meant.label_id, false) AS right1,
       coalesce(list_contains(list_transform(top5, lambda one: one.label_id), meant.label_id), false) AS right5
FROM labels JOIN meant USING (shard, key)"""
_TOTALS = """
SELECT count(*), count(error), coalesce(avg(right1::INT), 0), coalesce(avg(right5::INT), 0),
       coalesce(avg(coalesce(said = truth + 1, false)::INT), 0), coalesce(avg(coalesce(said = truth - 1, false)::INT), 0) FROM judged"""
_REORDERED = """
WITH learned AS (SELECT value, mode(said) AS said FROM judged WHERE half = 0 AND error IS NULL GROUP BY value)
SELECT coalesce(avg(coalesce(judged.said = learned.said, false)::INT), 0), count(*), (SELECT count(*) = count(DISTINCT said) FROM learned)
FROM judged JOIN learned USING (value) WHERE half = 1"""
_CALIBRATION = f"""
SELECT greatest(ceil(prob * {CALIBRATION_BINS})::INT - 1, 0) / {CALIBRATION_BINS} AS above, count(*) AS images,
       avg(prob::DOUBLE) AS confidence, avg(right1::INT) AS accuracy
FROM judged WHERE error IS NULL GROUP BY ALL ORDER BY above"""
_CLASSES = """
SELECT classes.label_id::INT AS label_id, wnid, label, count(truth) AS images, avg(right1::INT) AS top1, avg(right5::INT) AS top5
FROM classes LEFT JOIN judged ON truth = classes.label_id GROUP BY ALL
UNION ALL
SELECT CASE WHEN regexp_full_match(value, '-?[0-9]{1,9}') THEN value::INT END, NULL, value, count(*), 0, 0 FROM judged WHERE truth IS NULL GROUP BY value
ORDER BY label_id NULLS LAST, label"""
_CONFUSIONS = """
SELECT truth AS label_id, coalesce(is_class.label, value) AS label, said AS said_id, is_said.label AS said, count(*) AS images
FROM judged LEFT JOIN classes is_class ON is_class.label_id = truth LEFT JOIN classes is_said ON is_said.label_id = said
WHERE NOT right1 AND error IS NULL GROUP BY ALL ORDER BY images DESC, 1, 2, 3"""


@dataclass
class Evaluation:
    """Shares are of 1. A rejected image counts as wrong; calibration leaves it out.

    `num_images`: those that have a truth, of which `num_rejected` are rejected; `coverage`: all others too.
    `truth_by`: what names the classes there: `wnid`, `label` or `label_id`. `num_foreign`: truths of no class, with one `foreign_example`.
    `ece`: expected calibration error over `BINS` equal bins. `by_class`, `confusions`, `calibration`: tables, a row a
    class, a pair of classes, a bin. `finding`: the likely cause of bad figures, in a sentence.
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
    """Judge the labels of one model by the truth.

    Args:
        read: the truth, given the images that the tables have (`IMAGES`).

    Raises:
        NothingMatches: the truth is of none of the images.
        UserError: the output has no tables or several models, or the truth names no class of the model.
    """
    check_uri("output", output)
    output = canonical_uri(output)
    model_id = model_id or only_model(output)
    connection = connect(output, model_id)
    images = list_images(connection)
    truth = read(images)
    matched, coverage = join_truth(connection, truth, output, images)
    classes = connection.sql("SELECT label_id, wnid, label FROM classes ORDER BY label_id").to_arrow_table().cast(SCHEMA)
    label_id, truth_by = resolve_label_ids(matched.truth["value"].combine_chunks(), classes, truth.kind)
    label_id = pc.if_else(matched.truth["strange"].combine_chunks(), pa.scalar(None, pa.int32()), label_id)
    foreign = matched.truth.filter(pc.is_null(label_id))
    connection.register("meant", matched.truth.select(["shard", "key", "value"]).append_column("label_id", label_id))
    connection.execute(_JUDGED)
    num_images, num_rejected, top1, top5, higher, lower = connection.sql(_TOTALS).fetchall()[0]
    reordered, num_proving, one_to_one = connection.sql(_REORDERED).fetchall()[0]
    calibration = connection.sql(_CALIBRATION).to_arrow_table()
    answered = max(num_images - num_rejected, 1)
    ece = sum(row["images"] / answered * abs(row["accuracy"] - row["confidence"]) for row in calibration.to_pylist())
    imagenet = classes["wnid"].equals(load_classes()["wnid"])
    finding = _find_shift(num_images, top1, higher, lower, imagenet) or (
        _find_order(num_proving, top1, reordered, truth_by, len(matched.truth["value"].unique())) if one_to_one else None)
    return Evaluation(model_id, truth_by, num_images, num_rejected, len(foreign), first_example(foreign) or None, top1, top5, ece, higher, lower, imagenet,
                      finding, coverage, connection.sql(_CLASSES).to_arrow_table(), connection.sql(_CONFUSIONS).to_arrow_table(), calibration)


def _find_shift(num_images: int, top1: float, higher: float, lower: float, imagenet: bool) -> str | None:
    shifted = max(higher, lower)
    if not _is_fault(num_images, top1, shifted):
        return None
    if higher > lower:
        cause = "the network has 1001 classes and its class 0, \"background\", was not dropped" if imagenet else \
            "the model's classes have one more before them than the truth counts"
    else:
        cause = "the truth counts from 1, or has a \"background\" as its class 0"
    return (f"The labels are {'one higher' if higher > lower else 'one lower'} than the truth: with that put right top-1 "
            f"would be {shifted:.2%} instead of {top1:.2%}. Most likely {cause}.")


def _find_order(num_proving: int, top1: float, reordered: float, truth_by: str, num_classes: int) -> str | None:
    """The labels are right but for the order of classes, which half of the images teaches and the other half proves."""
    if not _is_fault(num_proving, top1, reordered):
        return None
    if truth_by == "label_id" and num_classes == DEVKIT_CLASSES:
        cause = "the truth has the numbers of ILSVRC2012's devkit (ILSVRC2012_ID), which are not in the order of the wnids: take its wnids"
    else:
        cause = "the file of --classes lists them in another order than the network's outputs, or the truth numbers them in another order"
    return (f"The labels are those of the truth in another order of the classes: with that put right top-1 would be {reordered:.2%} instead of "
            f"{top1:.2%}. Most likely {cause}.")


def _is_fault(num_images: int, top1: float, mended: float) -> bool:
    return mended * num_images >= FEWEST_MENDED and mended >= 2 * top1 and mended >= top1 + 0.1


def save_evaluation(evaluation: Evaluation, folder: str) -> None:
    """Write `evaluation.json`, `by_class.csv`, `confusions.csv` and `calibration.csv` into a folder (any fsspec URI).

    Raises:
        UserError: the folder cannot be written.
    """
    check_uri("save", folder)
    folder = canonical_uri(folder)
    tables = ("by_class", "confusions", "calibration")
    figures = {name: value for name, value in asdict(evaluation).items() if name not in tables}
    with explaining_errors("--save", folder):
        storage.put_whole(storage.join(folder, "evaluation.json"), (json.dumps(figures, indent=2) + "\n").encode())
        for name in tables:
            storage.put_whole(storage.join(folder, f"{name}.csv"),
                              getattr(evaluation, name).to_pandas().to_csv(index=False).encode())
