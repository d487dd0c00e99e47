"""How good the labels of an output are: its tables against the truth.

In: an output, and a table of `TRUTH`. Out: an `Evaluation`: accuracy, calibration, confusions, and the classic fault.
The images are not looked at again: DuckDB joins the tables with the truth.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.classes import SCHEMA, load_classes
from pipeline.config import canonical_uri, check_uri
from pipeline.output import only_model
from pipeline.query import connect
from pipeline.truth import resolve

REFERENCE = (0.8014, 0.9498)  # top-1, top-5: timm's inception_v4.tf_in1k
REFERENCE_SET = "timm on ImageNet-1k's 50,000 validation images, 299 px, crop 0.875, bicubic"
BINS = 15  # of confidence, as in Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599)
FEWEST_SHIFTED = 10  # images that must be right when shifted by one, before that is named as a fault

_JUDGED = """
CREATE OR REPLACE TEMP TABLE judged AS
SELECT truth.label_id AS truth, labels.label_id AS said, prob, error,
       coalesce(labels.label_id = truth.label_id, false) AS right1,
       coalesce(list_contains(list_transform(top5, lambda one: one.label_id), truth.label_id), false) AS right5
FROM labels JOIN truth USING (shard, key)"""
_TOTALS = """
SELECT count(*), count(error), coalesce(avg(right1::INT), 0), coalesce(avg(right5::INT), 0),
       coalesce(avg((said = truth + 1)::INT), 0), coalesce(avg((said = truth - 1)::INT), 0) FROM judged"""
_CALIBRATION = f"""
SELECT greatest(ceil(prob * {BINS})::INT - 1, 0) / {BINS} AS above, count(*) AS images,
       avg(prob::DOUBLE) AS confidence, avg(right1::INT) AS accuracy
FROM judged WHERE error IS NULL GROUP BY ALL ORDER BY above"""
_CLASSES = """
SELECT classes.label_id, wnid, label, count(truth) AS images, avg(right1::INT) AS top1, avg(right5::INT) AS top5
FROM classes LEFT JOIN judged ON truth = classes.label_id GROUP BY ALL ORDER BY classes.label_id"""
_CONFUSIONS = """
SELECT truth AS label_id, is_class.label, said AS said_id, is_said.label AS said, count(*) AS images
FROM judged LEFT JOIN classes is_class ON is_class.label_id = truth LEFT JOIN classes is_said ON is_said.label_id = said
WHERE NOT right1 AND error IS NULL GROUP BY ALL ORDER BY images DESC, 1, 3"""


@dataclass
class Evaluation:
    """Shares are of 1. A rejected image counts as wrong; calibration leaves it out.

    `num_images`: those that have a truth; `num_unlabelled`: truths without a row; `num_unknown`: rows without a truth.
    `truth_by`: what names the classes there: `wnid`, `label` or `label_id`. `foreign_ids`: label_ids of no class.
    `ece`: expected calibration error over `BINS` equal bins. `by_class`, `confusions`, `calibration`: tables, a row a
    class, a pair of classes, a bin. `finding`: the likely cause of bad figures, in a sentence.
    """

    model_id: str
    truth_by: str
    num_images: int
    num_rejected: int
    num_unlabelled: int
    num_unknown: int
    foreign_ids: int
    top1: float
    top5: float
    ece: float
    top1_one_higher: float
    top1_one_lower: float
    imagenet_1k: bool
    finding: str | None
    by_class: pa.Table
    confusions: pa.Table
    calibration: pa.Table


def evaluate(output: str, model_id: str | None, truth: pa.Table) -> Evaluation:
    """Judge the labels of one model by the truth, a table of `TRUTH`.

    Raises:
        UserError: the output has no tables or several models, or the truth names what is no class of the model.
    """
    check_uri("output", output)
    output = canonical_uri(output)
    model_id = model_id or only_model(output)
    connection = connect(output, model_id)
    classes = connection.sql("SELECT label_id, wnid, label FROM classes ORDER BY label_id").to_arrow_table().cast(SCHEMA)
    label_id, truth_by = resolve(truth["value"].combine_chunks(), classes)
    connection.register("truth", pa.table({"shard": truth["shard"], "key": truth["key"], "label_id": label_id}))
    connection.execute(_JUDGED)
    num_images, num_rejected, top1, top5, higher, lower = connection.sql(_TOTALS).fetchall()[0]
    num_unlabelled = connection.sql("SELECT count(*) FROM truth ANTI JOIN labels USING (shard, key)").fetchall()[0][0]
    num_unknown = connection.sql("SELECT count(*) FROM labels ANTI JOIN truth USING (shard, key)").fetchall()[0][0]
    calibration = connection.sql(_CALIBRATION).to_arrow_table()
    answered = max(num_images - num_rejected, 1)
    ece = sum(row["images"] / answered * abs(row["accuracy"] - row["confidence"]) for row in calibration.to_pylist())
    return Evaluation(model_id, truth_by, num_images, num_rejected, num_unlabelled, num_unknown,
                      pc.sum(pc.invert(pc.is_in(label_id, classes["label_id"].cast(pa.int32()).combine_chunks()))).as_py(),
                      top1, top5, ece, higher, lower, classes["wnid"].equals(load_classes()["wnid"]),
                      _finding(num_images, top1, higher, lower),
                      connection.sql(_CLASSES).to_arrow_table(), connection.sql(_CONFUSIONS).to_arrow_table(), calibration)


def _finding(num_images: int, top1: float, higher: float, lower: float) -> str | None:
    shifted = max(higher, lower)
    if shifted * num_images < FEWEST_SHIFTED or shifted < 2 * top1 or shifted < top1 + 0.1:
        return None
    cause = ("the network has 1001 classes and its class 0, \"background\", was not dropped"
             if higher > lower else "the truth counts from 1, or has a \"background\" as its class 0")
    return (f"The labels are {'one higher' if higher > lower else 'one lower'} than the truth: with that put right top-1 "
            f"would be {shifted:.2%} instead of {top1:.2%}. Most likely {cause}.")


def save(evaluation: Evaluation, folder: str) -> None:
    """Write `evaluation.json`, `by_class.csv`, `confusions.csv` and `calibration.csv` into a folder (any fsspec URI).

    Raises:
        UserError: the folder cannot be written.
    """
    check_uri("save", folder)
    folder = canonical_uri(folder)
    tables = ("by_class", "confusions", "calibration")
    figures = {name: value for name, value in asdict(evaluation).items() if name not in tables}
    try:
        storage.put_whole(storage.join(folder, "evaluation.json"), (json.dumps(figures, indent=2) + "\n").encode())
        for name in tables:
            storage.put_whole(storage.join(folder, f"{name}.csv"),
                              getattr(evaluation, name).to_pandas().to_csv(index=False).encode())
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("save", folder, error) from error
