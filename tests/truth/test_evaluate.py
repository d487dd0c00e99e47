"""Figures of synthetic tables: known by hand, or as scikit-learn has them; and where the truth is read."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.metrics import confusion_matrix, recall_score, top_k_accuracy_score

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.inputs.read import Inputs
from pipeline.model.classes import SCHEMA, load_classes
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.tables import ledger
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.truth import sources
from pipeline.truth.coverage import NothingMatches, describe_odd_names
from pipeline.truth.evaluate import CALIBRATION_BINS, evaluate, save_evaluation
from pipeline.truth.holdout import wilson_interval
from pipeline.truth.matching import GIVEN_TRUTHS, IMAGES
from pipeline.truth.sources import Examples, Truth
from tests.support.tars import make_tar

MODEL = "inception_v4-00000000"
FOUR = pa.table([[0, 1, 2, 3], [None] * 4, ["cat", "dog", "owl", "newt"]], schema=SCHEMA)
INPUTS = Inputs(None, None, Config.max_image_bytes, None)


def tables(folder, prob_NC, classes=FOUR, errors=None, model=MODEL, embedding=None, digests=None):
    """An output whose images have these probabilities, keys k0, k1, … in one shard."""
    count, k = len(prob_NC), min(5, len(classes))
    samples = pa.table([["a.tar"] * count, range(count), [f"k{n}" for n in range(count)], [9] * count, [9] * count,
                        digests or [f"{n:064}" for n in range(count)], errors or [None] * count], schema=SAMPLES)
    label_id = np.argsort(-prob_NC, axis=1, kind="stable")[:, :k]
    prob = np.take_along_axis(prob_NC, label_id, 1).astype(np.float32)
    if embedding is None:
        embedding = np.zeros((count, EMBEDDING_SIZE), np.float32)
    made = make_rows(samples, Answers(label_id.astype(np.int16), prob, embedding), classes["label"].combine_chunks())
    (folder / f"labels/model={model}").mkdir(parents=True)
    (folder / "classes").mkdir()
    pq.write_table(made, folder / f"labels/model={model}/a.tar.parquet")
    pq.write_table(classes, folder / f"classes/{model}.parquet")
    ledger.write(str(folder), "shards", "r", [], ledger.SHARDS)
    ledger.write(str(folder), "runs", "r", [], ledger.RUNS)
    return str(folder)


def said(values, shard="a.tar", kind=None, names=None):
    """What reads a truth of the images k0, k1, …, as `evaluate` asks for it."""
    rows = [{"shard": shard, "name": name, "value": str(value), "strange": False, "line": None}
            for name, value in zip(names or [f"k{n}" for n in range(len(values))], values, strict=True)]
    return lambda images: Truth("test", pa.Table.from_pylist(rows, schema=GIVEN_TRUTHS), kind)


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


@pytest.mark.parametrize("suffix", ["cls", "txt"])
@pytest.mark.parametrize("image_first", [True, False])
def test_truth_beside_the_images_of_a_tar(tmp_path, suffix, image_first):
    members = []
    for n, name in enumerate(["cat", "dog\n", "", None]):
        pair = [(f"f/k{n}.jpg", b"image")] + ([] if name is None else [(f"f/k{n}.{suffix}", name.encode())])
        members += pair if image_first else pair[::-1]
    (tmp_path / "a.tar").write_bytes(make_tar(*members))
    where = sources.guess_where(str(tmp_path), INPUTS)
    assert where == f"member:{suffix}"
    assert read(where, tmp_path) == [("a.tar", "f/k0", "cat"), ("a.tar", "f/k1", "dog")]


def read(where, uri=None):
    found = sources.read_truth(Examples(None if uri is None else str(uri), str(where), INPUTS)).given
    return [(row["shard"], row["name"], row["value"]) for row in found.to_pylist()]


def test_truth_in_folders(tmp_path):
    for path in ("in/cats/1.jpg", "in/dogs/1.jpg", "in/loose.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"image")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/a.tar").write_bytes(make_tar(("x/cats/1.jpg", b"i"), ("x/dogs/1.jpg", b"i")))
    for folder, keys in (("in", ["cats/1.jpg", "dogs/1.jpg"]), ("tars", ["x/cats/1", "x/dogs/1"])):
        where = sources.guess_where(str(tmp_path / folder), INPUTS)
        assert where == "folder"
        assert sorted((key, value)
                      for _, key, value in read(where, tmp_path / folder)) == list(zip(keys, ["cats", "dogs"],
                                                                                       strict=True))


def test_truth_in_a_column(tmp_path):
    """Hugging Face notes the names of the numbers in the schema's metadata."""
    noted = {"info": {"features": {"image": {"_type": "Image"},
                                   "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [b"i"] * 3, "key": ["a", "b", "c"], "label": [1, 0, None]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(noted)}), tmp_path / "a.parquet")
    assert sources.guess_where(str(tmp_path), INPUTS) == "column:label"
    assert [value for *_, value in read("column:label", tmp_path)] == ["dog", "cat"]
    pq.write_table(table, tmp_path / "a.parquet")
    assert [value for *_, value in read("column:label", tmp_path)] == ["1", "0"]


@pytest.mark.parametrize(("csv", "message"), [
    ("shard,name\na,b\n", "one that names the classes .label_id, wnid or label.; it has shard, name"),
    ("shard,key,label\n", "no image has any"),
    ("", "it has no line"),
    ("key,label_id\na,0\nb,NA\n", "line 3, column label_id: 'NA' is no number of a class"),
    ('key,label\na,"cat\n', "line 3: not CSV|line 2: not CSV"),
    (None, "does not exist"),
])
def test_a_csv_that_will_not_do(tmp_path, csv, message):
    if csv is not None:
        (tmp_path / "t.csv").write_text(csv)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "t.csv")


def test_two_truths_of_one_image(tmp_path):
    (tmp_path / "t.csv").write_text("shard,key,label\na.tar,k0,cat\na.tar,k0,dog\n")
    with pytest.raises(UserError, match=r"says two things of k0 in a.tar"):
        evaluate(tables(tmp_path / "out", np.eye(4)), None,
                 partial(sources.read_truth, Examples(None, str(tmp_path / "t.csv"), INPUTS)))


@pytest.mark.parametrize(("where", "message"),
                         [("nowhere", "it takes FILE.csv"), ("member:cls", "name them with --input")])
def test_a_place_that_will_not_do(where, message):
    with pytest.raises(UserError, match=message):
        sources.check_where(where, has_input=False)


def test_credentials_are_refused(tmp_path):
    with pytest.raises(UserError, match="--truth"):
        read("s3://key:secret@bucket/t.csv")
    with pytest.raises(UserError, match="--save"):
        save_evaluation(evaluate(tables(tmp_path, np.eye(4)), None, said(["cat"])), "s3://key:secret@bucket/x")


def test_an_input_without_truth(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar(("k.jpg", b"i")))
    with pytest.raises(UserError, match=r"a.tar has no truth in member:cls or member:txt or folder"):
        sources.guess_where(str(tmp_path), INPUTS)
    with pytest.raises(UserError, match="--truth column:x is for Parquet files"):
        read("column:x", tmp_path)


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


@pytest.mark.parametrize(("text", "kind", "column", "values"), [
    ("shard,key,label_id,label\na,1,0,cat\na,2,1,dog\n", "label", "label", ["cat", "dog"]),
    ("key,label_id,label\n1,0,crane\n2,1,crane\n3,2,dog\n", "label_id", "label_id", ["0", "1", "2"]),
    ("path;class\n1.jpg; cat \n2.jpg;\n", "label", "class", ["cat"]),
    ("ImageId,PredictionString\nv1,n02099601 1 2 3 4 n02099601 5 6 7 8\nv2,n01440764 0 0 9 9\n", "label",
     "PredictionString", ["n02099601", "n01440764"]),
    ("uri,size,etag,label\ns3://b/1.jpg,5,e,3.0\n", "label", "label", ["3"])])
def test_columns_that_people_have(tmp_path, text, kind, column, values):
    """For a fit, where names count."""
    (tmp_path / "t.csv").write_text(text)
    found = sources.read_truth(Examples(None, str(tmp_path / "t.csv"), INPUTS), for_fit=True)
    assert (found.kind, found.where,
            found.given["value"].to_pylist()) == (kind, f"{tmp_path / 't.csv'}, column {column}", values)


def test_boxes_of_two_classes(tmp_path):
    (tmp_path / "t.csv").write_text("ImageId,PredictionString\nv,n02099601 1 2 3 4 n01440764 5 6 7 8\n")
    with pytest.raises(UserError, match=r"line 2, column PredictionString: .* has boxes of several classes"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize(("column", "message"), [
    (pa.array([[1], [2]]), "column 'label' holds list<.*, which names no class; it takes text or numbers"),
    (pa.array([True, False]), "holds bool, which names no class"),
    (pa.array([{"a": 1}, {"a": 2}]), "holds struct<")])
def test_columns_that_name_no_class(tmp_path, column, message):
    pq.write_table(pa.table({"image": [b"i"] * 2, "label": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=message):
        read("column:label", tmp_path)


def test_numbers_of_a_class_label(tmp_path):
    """-1 is no label; 7 of two classes and half a class are no classes; names stay names beside the metadata."""
    noted = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["cat", "dog "],
                                                                        "_type": "ClassLabel"}}}})}
    for values, expected in (([-1, 1, 7], [("dog", False), ("7", True)]),
                             ([0.0, 0.5, float("nan")], [("cat", False), ("0.5", True)]),
                             (["cat", None, "bird"], [("cat", False), ("bird", False)]),
                             ([b"cat", b" ", b"-1"], [("cat", False)])):
        pq.write_table(pa.table({"image": [b"i"] * 3, "label": values}).replace_schema_metadata(noted),
                       tmp_path / "a.parquet")
        found = sources.read_truth(Examples(str(tmp_path), "column:label", INPUTS)).given.to_pylist()
        assert [(row["value"], row["strange"]) for row in found] == expected


def test_members_apart_from_their_images(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar(("x/1.jpg", b"i"), ("x/2.jpg", b"i"), ("x/2.cls", b"cat"),
                                              ("x/1.cls", b"dog"), ("x/3.cls", b"owl")))
    assert read("member:cls", tmp_path) == read("member:CLS", tmp_path) == [("a.tar", "x/1", "dog"),
                                                                            ("a.tar", "x/2", "cat"),
                                                                            ("a.tar", "x/3", "owl")]
    (tmp_path / "a.tar").write_bytes(make_tar(("1.jpg", b"i"), ("1.cls", b"cat"), ("2.jpg", b"i"), ("1.cls", b"dog")))
    assert read("member:cls", tmp_path) == [("a.tar", "1", "cat"),
                                            ("a.tar", "1",
                                             "dog")]  # two things of one image: refused when they are matched


def test_one_shard_that_cannot_be_read_is_one_failed_shard(tmp_path):
    whole = make_tar(("1.jpg", b"i" * 2000), ("1.cls", b"cat"))
    (tmp_path / "a.tar").write_bytes(whole)
    (tmp_path / "b.tar").write_bytes(whole[:1500])
    found = sources.read_truth(Examples(str(tmp_path), "member:cls", INPUTS))
    assert list(found.failed) == ["b.tar"] and "cut" in found.failed["b.tar"] and len(found.given) == 1
    (tmp_path / "a.tar").write_bytes(whole[:1500])
    with pytest.raises(UserError, match=r"a.tar: .* cut; nor can 1 others be read"):
        read("member:cls", tmp_path)


def test_a_folders_name_is_read_from_the_tables(tmp_path, monkeypatch):
    """No byte of an image is read, and the input need not be named."""
    images = pa.table([["a.tar"] * 3, ["x/cat/1", "2", ".hid/3"]], schema=IMAGES)
    monkeypatch.setattr(sources, "list_shards", lambda *_: 1 / 0)
    assert sources.read_truth(Examples(None, "folder", INPUTS),
                              images).given.select(["name", "value"]).to_pylist() == [{"name": "x/cat/1",
                                                                                       "value": "cat"}]


@pytest.mark.parametrize(("hits", "number"), [(12, 12), (0, 5), (3, 4), (1, 1), (49_731, 50_000)])
def test_wilsons_interval_is_scipys(hits, number):
    scipys = stats.binomtest(hits, number).proportion_ci(method="wilson")
    assert wilson_interval(hits, number) == pytest.approx((scipys.low, scipys.high), abs=1e-12)


def test_names_of_parts_and_names_alike_are_told():
    assert describe_odd_names(["train", "val", "Cat", "cat"], "folder") == [
        "'Cat' and 'cat' are 2 classes, and differ only by case or blanks",
        ("'train' and 'val': the names of parts of a data set, not of classes; put each class's images into a folder "
        "of its own")]
    assert describe_odd_names(["train"], "member:cls") == []


def test_spellings_of_one_class_are_told(tmp_path):
    """In folders, by the tables; in members; in a column; in a CSV."""
    images = pa.table([["a.tar"] * 3, ["pear/1", "pear /2", "plum/3"]], schema=IMAGES)
    assert sources.read_truth(Examples(None, "folder", INPUTS), images).spellings == {"pear": {"pear "}}
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(make_tar(("1.jpg", b"i"), ("1.cls", b"pear\n"), ("2.jpg", b"i"),
                                                 ("2.cls", b"\xef\xbb\xbfpear\n")))
    assert sources.read_truth(Examples(str(tmp_path / "in"), "member:cls",
                                       INPUTS)).spellings == {"pear": {"\ufeffpear"}}
    (tmp_path / "pq").mkdir()
    pq.write_table(pa.table({"image": [b"i"] * 2, "label": ["p\u00f6re", "po\u0308re"]}), tmp_path / "pq/a.parquet")
    assert sources.read_truth(Examples(str(tmp_path / "pq"), "column:label",
                                       INPUTS)).spellings == {"p\u00f6re": {"po\u0308re"}}
    (tmp_path / "t.csv").write_text("key,label\nk0,p\u00f6re\nk1,po\u0308re\n", encoding="utf-8")
    classes = pa.table([range(2), [None] * 2, ["p\u00f6re", "cat"]], schema=SCHEMA)
    judged = evaluate(tables(tmp_path / "out", np.eye(2), classes), None,
                      partial(sources.read_truth, Examples(None, str(tmp_path / "t.csv"), INPUTS)))
    assert judged.top1 == 0.5
    assert "one class is spelled in several ways: 'p\u00f6re', 'po\u0308re'" in judged.coverage.sentences()
