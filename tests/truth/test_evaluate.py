"""Figures of synthetic tables: known by hand, or as scikit-learn and SciPy have them."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score

from pipeline.errors import UserError
from pipeline.model.classes import SCHEMA, load_classes
from pipeline.tables import ledger
from pipeline.truth.coverage import NothingMatches
from pipeline.truth.evaluate import CALIBRATION_BINS, evaluate, save_evaluation
from pipeline.truth.holdout import wilson_interval
from tests.support.label_tables import MODEL, said, tables


def test_figures_by_hand(tmp_path):
    """Eight images: five right, one right in the second place, one wrong altogether, one rejected."""
    prob = np.array([[.9, .1, 0, 0], [.9, .1, 0, 0], [.1, .9, 0, 0], [.1, .9, 0, 0], [.7, .3, 0, 0],
                     [.7, .3, 0, 0], [.7, .3, 0, 0], [.7, .3, 0, 0]])
    output = tables(tmp_path, prob, errors=[None] * 7 + ["corrupt"])
    judged = evaluate(output, None, said(["cat", "cat", "dog", "dog", "cat", "dog", "newt", "cat"]))
    assert (judged.num_images, judged.num_rejected, judged.coverage.num_without,
            judged.coverage.num_unmatched) == (8, 1, 0, 0)
    assert (judged.top1, judged.top5, judged.truth_by) == (5 / 8, 7 / 8, "label")  # all four are in the top 5
    # two bins: 0.9 (4 images, all right), 0.7 (3 images, one right)
    assert judged.ece == pytest.approx(4 / 7 * 0.1 + 3 / 7 * abs(1 / 3 - 0.7), abs=1e-6)
    assert judged.by_class.select(["label", "images", "top1"]).to_pylist() == [
        {"label": "cat", "images": 4, "top1": 0.75}, {"label": "dog", "images": 3, "top1": 2 / 3},
        {"label": "owl", "images": 0, "top1": None}, {"label": "newt", "images": 1, "top1": 0.0}]
    assert judged.confusions.select(["label", "said", "images"]).to_pylist() == [
        {"label": "dog", "said": "cat", "images": 1}, {"label": "newt", "said": "cat", "images": 1}]
    assert judged.finding is None
    assert not judged.imagenet_1k


def test_figures_as_scikit_learn_has_them(tmp_path):
    random = np.random.default_rng(0)
    logits = random.normal(size=(4000, 30)) * 2
    known = np.where(random.random(4000) < 0.6, logits.argmax(1), random.integers(0, 30, 4000))
    prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    classes = pa.table([range(30), [f"n{n:08}" for n in range(30)], [f"class {n}" for n in range(30)]], schema=SCHEMA)
    judged = evaluate(tables(tmp_path, prob, classes), MODEL, said([f"n{n:08}" for n in known]))
    predicted, ids = prob.argmax(1), range(30)
    assert judged.top1 == pytest.approx((predicted == known).mean())
    assert judged.top5 == pytest.approx(top_k_accuracy_score(known, prob, k=5, labels=ids))
    assert judged.by_class["top1"].to_pylist() == pytest.approx(list(recall_score(known, predicted, labels=ids,
                                                                                  average=None)))
    matrix = confusion_matrix(known, predicted, labels=ids)
    for row in judged.confusions.to_pylist():
        assert matrix[row["label_id"], row["said_id"]] == row["images"]
    assert sum(judged.confusions["images"].to_pylist()) == matrix.sum() - np.trace(matrix)
    best = prob.max(1).astype(np.float32)
    ece = 0.0
    for lower in np.arange(CALIBRATION_BINS) / CALIBRATION_BINS:
        inside = (best > lower) & (best <= lower + 1 / CALIBRATION_BINS)
        if inside.any():
            ece += inside.mean() * abs((predicted == known)[inside].mean() - best[inside].mean())
    assert judged.ece == pytest.approx(ece, abs=1e-6)


@pytest.mark.parametrize(("shift", "word"), [(1, "counts from 1"), (-1, "1001 classes")])
def test_a_shift_by_one_is_named(tmp_path, shift, word):
    random = np.random.default_rng(1)
    known = random.integers(1, 999, 300)
    prob = np.full((300, 1000), 1e-4)
    prob[np.arange(300), known] = 0.9
    output = tables(tmp_path, prob, load_classes())
    assert evaluate(output, None, said(known)).finding is None
    judged = evaluate(output, None, said(known + shift))
    assert judged.top1 < 0.01
    assert word in judged.finding
    assert "100.00% instead of" in judged.finding
    assert judged.imagenet_1k


def test_label_ids_of_no_class_are_never_right(tmp_path):
    judged = evaluate(tables(tmp_path, np.eye(4)), None, said([0, 1, 2, 1000]))
    assert (judged.top1, judged.num_foreign, judged.truth_by) == (0.75, 1, "label_id")
    assert judged.by_class.to_pylist()[-1] == {"label_id": 1000, "wnid": None, "label": "1000", "images": 1, "top1": 0,
                                               "top5": 0}


def test_numbers_are_names_where_all_classes_have_such_names(tmp_path):
    digits = pa.table([[0, 1, 2, 3], [None] * 4, ["9", "7", "3", "1"]], schema=SCHEMA)
    judged = evaluate(tables(tmp_path, np.eye(4), digits), None, said([9, 7, 3, 1]))
    assert (judged.top1, judged.truth_by) == (1, "label")


def test_a_name_of_no_class_is_wrong_and_named(tmp_path):
    judged = evaluate(tables(tmp_path, np.eye(4)), None, said(["cat", "dog", "owl", "newtt"]))
    assert (judged.top1, judged.num_foreign, judged.foreign_example) == (0.75, 1, "k3 in a.tar: newtt")
    assert judged.by_class["label"].to_pylist() == ["cat", "dog", "owl", "newt", "newtt"]
    assert judged.confusions.to_pylist() == [{"label_id": None, "label": "newtt", "said_id": 3, "said": "newt",
                                              "images": 1}]
    with pytest.raises(UserError, match="'x' is no wnid, label or label_id of the model's 4 classes, nor are 1 "
                                        "others; they are 0 cat, 1 dog, 2 owl"):
        evaluate(str(tmp_path), None, said(["x", "y"]))


def test_unmatched_rows_and_truths_are_counted(tmp_path):
    output = tables(tmp_path, np.eye(4))
    covered = evaluate(output, None, said(["cat", "dog", "cat"], names=["k0", "k1", "k9"])).coverage
    assert (covered.num_with, covered.num_without, covered.num_unmatched) == (2, 2, 1)
    assert covered.sentences() == ["4 images: 2 with a truth, 2 without (such as k2 in a.tar), 0 rejected",
                                   "truths that have no image: 1 (such as k9 in a.tar: cat)"]
    with pytest.raises(
        NothingMatches,
        match=r"none of its 1 truths is of an image: it names, say, x/y.jpg in b.tar: cat; --output .* k0 in a.tar",
    ):
        evaluate(output, None, said(["cat"], "b.tar", names=["x/y.jpg"]))


def test_what_is_saved(tmp_path):
    save_evaluation(evaluate(tables(tmp_path / "out", np.eye(4)), None, said(["cat", "dog", "owl", "cat"])),
                    str(tmp_path / "saved"))
    figures = json.loads((tmp_path / "saved/evaluation.json").read_text())
    assert (figures["top1"], figures["num_images"]) == (0.75, 4)
    assert (tmp_path / "saved/by_class.csv").read_text().splitlines()[1] == "0,,cat,2,0.5,1.0"
    assert (tmp_path / "saved/confusions.csv").read_text().splitlines()[1] == "0,cat,3,newt,1"
    assert len((tmp_path / "saved/calibration.csv").read_text().splitlines()) == 2


def test_the_job(tmp_path):
    output = tables(tmp_path / "out", np.eye(4))
    (tmp_path / "t.csv").write_text("shard,key,label_id\na.tar,k0,0\na.tar,k1,1\na.tar,k2,2\na.tar,k3,0\n")
    job = [sys.executable, "jobs/evaluate.py", "--output", output]
    done = subprocess.run([*job, "--truth", tmp_path / "t.csv"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "top-1       75.00% of 4 (95 %: 30.1% to 95.4%)" in done.stdout
    assert "cat taken for newt: 1" in done.stdout
    nothing = subprocess.run(job, check=False, capture_output=True, text=True)
    assert nothing.returncode == 2
    assert "--truth or --input" in nothing.stderr


def test_a_shard_that_could_not_be_labelled_is_named_and_the_rest_is_judged(tmp_path):
    output = tables(tmp_path, np.eye(4))
    when = datetime(2026, 11, 26, tzinfo=UTC)
    failed = {"run_id": "r", "model_id": MODEL, "labelled_at": when}
    ledger.write(output, "shards", "r", [failed | {"shard": "b.tar", "status": "failed", "failure": "it was cut"},
                                         failed | {"shard": "a.tar", "status": "failed", "failure": "once"}],
                                         ledger.SHARDS)
    judged = evaluate(output, None, said(["cat", "dog", "owl", "newt"]))
    assert judged.top1 == 1 and judged.coverage.failed == {"b.tar": "it was cut"}
    assert "b.tar could not be read: it was cut" in judged.coverage.sentences()


@pytest.mark.parametrize(("ids", "word"),
                         [(False, "--classes lists them in another order"), (True, "ILSVRC2012's devkit")])
def test_another_order_of_classes_is_named(tmp_path, ids, word):
    """Of own classes by their names; of the devkit's 1,000 numbers, which are in the order of nothing that we know."""
    random = np.random.default_rng(2)
    number = 1000 if ids else 6
    order, shows = random.permutation(number), np.tile(np.arange(number), 6)
    prob = np.full((len(shows), number), 1e-5)
    prob[np.arange(len(shows)), shows] = 0.9
    classes = load_classes() if ids else pa.table([range(6), [None] * 6, list("abcdef")], schema=SCHEMA)
    output = tables(tmp_path, prob, classes)
    truths = order[shows] + 1 if ids else ["abcdef"[one] for one in order[shows]]
    judged = evaluate(output, None, said(truths, kind="label_id" if ids else None))
    assert word in judged.finding and "100.00% instead of" in judged.finding and "1001 classes" not in judged.finding
    assert evaluate(output, None, said(shows if ids else ["abcdef"[one] for one in shows])).finding is None


def test_few_images_prove_no_order(tmp_path):
    prob = np.roll(np.eye(6), 2, axis=1)
    classes = pa.table([range(6), [None] * 6, list("abcdef")], schema=SCHEMA)
    assert evaluate(tables(tmp_path, prob, classes), None, said(list("abcdef"))).finding is None


def test_own_classes_are_told_no_causes_of_imagenet(tmp_path):
    classes = pa.table([range(20), [None] * 20, [f"c{n}" for n in range(20)]], schema=SCHEMA)
    shows = np.tile(np.arange(1, 19), 5)
    prob = np.full((len(shows), 20), 1e-3)
    prob[np.arange(len(shows)), shows + 1] = 0.9
    judged = evaluate(tables(tmp_path, prob, classes), None, said([f"c{one}" for one in shows]))
    assert "one higher" in judged.finding and "background" not in judged.finding


@pytest.mark.parametrize(("hits", "number"), [(12, 12), (0, 5), (3, 4), (1, 1), (49_731, 50_000)])
def test_wilsons_interval_is_scipys(hits, number):
    scipys = stats.binomtest(hits, number).proportion_ci(method="wilson")
    assert wilson_interval(hits, number) == pytest.approx((scipys.low, scipys.high), abs=1e-12)
