"""A truth is read from folders, members, columns and CSV files; what will not do is told."""

import json
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.inputs.read import Inputs
from pipeline.model.classes import SCHEMA
from pipeline.truth import sources
from pipeline.truth.coverage import describe_odd_names
from pipeline.truth.evaluate import evaluate, save_evaluation
from pipeline.truth.matching import IMAGES
from pipeline.truth.sources import Examples
from tests.support.label_tables import said, tables
from tests.support.tars import make_tar

INPUTS = Inputs(None, None, Config.max_image_bytes, None)


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
