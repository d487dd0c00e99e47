"""Figures of synthetic tables: known by hand, or as scikit-learn has them; and where the truth is read."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score

from pipeline import ledger, truth
from pipeline.classes import SCHEMA, load_classes
from pipeline.config import Config, UserError
from pipeline.evaluate import BINS, evaluate, save
from pipeline.inputs import Inputs
from pipeline.table import EMBEDDING, SAMPLES, Answers, rows
from pipeline.truth import TRUTH
from tests.test_shards import make_tar

MODEL = "inception_v4-00000000"
FOUR = pa.table([[0, 1, 2, 3], [None] * 4, ["cat", "dog", "owl", "newt"]], schema=SCHEMA)
INPUTS = Inputs(None, None, Config.max_image_bytes, None)


def tables(folder, prob_NC, classes=FOUR, errors=None, model=MODEL, embedding=None, digests=None):
    """An output whose images have these probabilities, keys k0, k1, … in one shard."""
    count, k = len(prob_NC), min(5, len(classes))
    samples = pa.table([["a.tar"] * count, range(count), [f"k{n}" for n in range(count)], [9] * count, [9] * count,
                        digests or ["0" * 64] * count, errors or [None] * count], schema=SAMPLES)
    label_id = np.argsort(-prob_NC, axis=1, kind="stable")[:, :k]
    prob = np.take_along_axis(prob_NC, label_id, 1).astype(np.float32)
    if embedding is None:
        embedding = np.zeros((count, EMBEDDING), np.float32)
    made = rows(samples, Answers(label_id.astype(np.int16), prob, embedding), classes["label"].combine_chunks())
    (folder / f"labels/model={model}").mkdir(parents=True)
    (folder / "classes").mkdir()
    pq.write_table(made, folder / f"labels/model={model}/a.tar.parquet")
    pq.write_table(classes, folder / f"classes/{model}.parquet")
    ledger.write(str(folder), "shards", "r", [], ledger.SHARDS)
    ledger.write(str(folder), "runs", "r", [], ledger.RUNS)
    return str(folder)


def said(values, shard="a.tar"):
    return pa.table([[shard] * len(values), [f"k{n}" for n in range(len(values))], [str(v) for v in values]], schema=TRUTH)


def test_figures_by_hand(tmp_path):
    """Eight images: five right, one right in the second place, one wrong altogether, one rejected."""
    prob = np.array([[.9, .1, 0, 0], [.9, .1, 0, 0], [.1, .9, 0, 0], [.1, .9, 0, 0], [.7, .3, 0, 0],
                     [.7, .3, 0, 0], [.7, .3, 0, 0], [.7, .3, 0, 0]])
    output = tables(tmp_path, prob, errors=[None] * 7 + ["corrupt"])
    judged = evaluate(output, None, said(["cat", "cat", "dog", "dog", "cat", "dog", "newt", "cat"]))
    assert (judged.num_images, judged.num_rejected, judged.num_unknown, judged.num_unlabelled) == (8, 1, 0, 0)
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
    assert judged.by_class["top1"].to_pylist() == pytest.approx(list(recall_score(known, predicted, labels=ids, average=None)))
    matrix = confusion_matrix(known, predicted, labels=ids)
    for row in judged.confusions.to_pylist():
        assert matrix[row["label_id"], row["said_id"]] == row["images"]
    assert sum(judged.confusions["images"].to_pylist()) == matrix.sum() - np.trace(matrix)
    best = prob.max(1).astype(np.float32)
    ece = 0.0
    for lower in np.arange(BINS) / BINS:
        inside = (best > lower) & (best <= lower + 1 / BINS)
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
    assert (judged.top1, judged.foreign_ids, judged.truth_by) == (0.75, 1, "label_id")


def test_numbers_are_names_where_all_classes_have_such_names(tmp_path):
    digits = pa.table([[0, 1, 2, 3], [None] * 4, ["9", "7", "3", "1"]], schema=SCHEMA)
    judged = evaluate(tables(tmp_path, np.eye(4), digits), None, said([9, 7, 3, 1]))
    assert (judged.top1, judged.truth_by) == (1, "label")


def test_a_name_of_no_class_is_named(tmp_path):
    with pytest.raises(UserError, match="'catt' is no wnid, label or label_id of the model's 4 classes, nor are 1 others"):
        evaluate(tables(tmp_path, np.eye(4)), None, said(["cat", "catt", "ow", "newt"]))


def test_unmatched_rows_and_truths_are_counted(tmp_path):
    output = tables(tmp_path, np.eye(4))
    judged = evaluate(output, None, pa.concat_tables([said(["cat", "dog"]), said(["cat"], "b.tar")]))
    assert (judged.num_images, judged.num_unknown, judged.num_unlabelled) == (2, 2, 1)


def test_what_is_saved(tmp_path):
    save(evaluate(tables(tmp_path / "out", np.eye(4)), None, said(["cat", "dog", "owl", "cat"])), str(tmp_path / "saved"))
    figures = json.loads((tmp_path / "saved/evaluation.json").read_text())
    assert (figures["top1"], figures["num_images"]) == (0.75, 4)
    assert (tmp_path / "saved/by_class.csv").read_text().splitlines()[1] == "0,,cat,2,0.5,1.0"
    assert (tmp_path / "saved/confusions.csv").read_text().splitlines()[1] == "0,cat,3,newt,1"
    assert len((tmp_path / "saved/calibration.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("suffix", ["cls", "txt"])
@pytest.mark.parametrize("image_first", [True, False])
def test_truth_beside_the_images_of_a_tar(tmp_path, suffix, image_first):
    members = []
    for n, name in enumerate(["cat", "dog\n", "", None]):
        pair = [(f"f/k{n}.jpg", b"image")] + ([] if name is None else [(f"f/k{n}.{suffix}", name.encode())])
        members += pair if image_first else pair[::-1]
    (tmp_path / "a.tar").write_bytes(make_tar(*members))
    where = truth.look(str(tmp_path), INPUTS)
    assert where == f"member:{suffix}"
    assert truth.read(where, str(tmp_path), INPUTS).to_pylist() == [
        {"shard": "a.tar", "key": "f/k0", "value": "cat"}, {"shard": "a.tar", "key": "f/k1", "value": "dog"}]


def test_truth_in_folders(tmp_path):
    for path in ("in/cats/1.jpg", "in/dogs/1.jpg", "in/loose.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"image")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/a.tar").write_bytes(make_tar(("x/cats/1.jpg", b"i"), ("x/dogs/1.jpg", b"i")))
    for folder, keys in (("in", ["cats/1.jpg", "dogs/1.jpg"]), ("tars", ["x/cats/1", "x/dogs/1"])):
        where = truth.look(str(tmp_path / folder), INPUTS)
        found = truth.read(where, str(tmp_path / folder), INPUTS)
        assert where == "folder"
        assert sorted(zip(found["key"].to_pylist(), found["value"].to_pylist(), strict=True)) == list(
            zip(keys, ["cats", "dogs"], strict=True))


def test_truth_in_a_column(tmp_path):
    """Hugging Face notes the names of the numbers in the schema's metadata."""
    noted = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [b"i"] * 3, "key": ["a", "b", "c"], "label": [1, 0, None]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(noted)}), tmp_path / "a.parquet")
    assert truth.look(str(tmp_path), INPUTS) == "column:label"
    assert truth.read("column:label", str(tmp_path), INPUTS)["value"].to_pylist() == ["dog", "cat"]
    pq.write_table(table, tmp_path / "a.parquet")
    assert truth.read("column:label", str(tmp_path), INPUTS)["value"].to_pylist() == ["1", "0"]


@pytest.mark.parametrize(("csv", "message"), [
    ("shard,name\na,b\n", "it needs columns shard, key, and label_id, wnid or label; it has shard, name"),
    ("shard,key,label\na,b,cat\na,b,dog\n", "says two things of b in a"),
    ("shard,key,label\n", "no image has any"),
    ("", "not a CSV that can be read"),
    (None, "does not exist"),
])
def test_a_csv_that_will_not_do(tmp_path, csv, message):
    if csv is not None:
        (tmp_path / "t.csv").write_text(csv)
    with pytest.raises(UserError, match=message):
        truth.read(str(tmp_path / "t.csv"), None, INPUTS)


@pytest.mark.parametrize(("where", "message"), [("nowhere", "it takes FILE.csv"), ("folder", "name them with --input")])
def test_a_place_that_will_not_do(where, message):
    with pytest.raises(UserError, match=message):
        truth.read(where, None, INPUTS)


def test_credentials_are_refused(tmp_path):
    with pytest.raises(UserError, match="--truth"):
        truth.read("s3://key:secret@bucket/t.csv", None, INPUTS)
    with pytest.raises(UserError, match="--save"):
        save(evaluate(tables(tmp_path, np.eye(4)), None, said(["cat"])), "s3://key:secret@bucket/x")


def test_an_input_without_truth(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar(("k.jpg", b"i")))
    with pytest.raises(UserError, match="a.tar has no truth in member:cls or member:txt or folder"):
        truth.look(str(tmp_path), INPUTS)
    with pytest.raises(UserError, match="--truth column:x is for Parquet files"):
        truth.read("column:x", str(tmp_path), INPUTS)


def test_the_job(tmp_path):
    output = tables(tmp_path / "out", np.eye(4))
    (tmp_path / "t.csv").write_text("shard,key,label_id\na.tar,k0,0\na.tar,k1,1\na.tar,k2,2\na.tar,k3,0\n")
    job = [sys.executable, "jobs/evaluate.py", "--output", output]
    done = subprocess.run([*job, "--truth", tmp_path / "t.csv"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "top-1       75.00% ±" in done.stdout
    assert "cat taken for newt: 1" in done.stdout
    nothing = subprocess.run(job, check=False, capture_output=True, text=True)
    assert nothing.returncode == 2
    assert "--truth or --input" in nothing.stderr
