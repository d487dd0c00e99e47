"""Truths by whatever people call their images: the key's own rule first, and none by guess."""

import random

import pyarrow as pa
import pytest

from pipeline.errors import UserError
from pipeline.truth.matching import GIVEN_TRUTHS, IMAGES, match

LETTERS = ["x", "o\u0308", "1"]
GROUP = "images-0123456789ab"


def found(said, images):
    """Name -> shard and key of its image; names of no image; names of several."""
    rows = [{"shard": shard, "name": name, "value": value, "strange": False, "line": line}
            for line, (shard, name, value) in enumerate(said)]
    matched = match(pa.Table.from_pylist(rows, schema=GIVEN_TRUTHS),
                    pa.table([[shard for shard, _ in images], [key for _, key in images]], schema=IMAGES), "t")
    return ({said[row["line"]][1]: (row["shard"], row["key"]) for row in matched.truth.to_pylist()},
            matched.unmatched["name"].to_pylist(),
            matched.ambiguous["name"].to_pylist())


@pytest.mark.parametrize(("name", "key"), [
    ("a/1", "a/1"), ("a/1.jpg", "a/1"), ("a/1.JPEG", "a/1"), ("1.png", "a/1"), ("1", "a/1"), ("train/a/1.jpg", "a/1"),
    ("/data/a/1.jpg", "a/1"),
    ("./a/1.jpg", "a/1"), ("a\\1.jpg", "a/1"), ("s3://bucket/photos/a/1.jpg", "a/1"), ("a/1.jpg", "a/1.jpg"),
    ("a/1", "a/1.jpg"),
    ("1.jpg", "/home/me/photos/a/1.jpg"), ("a/x.1.jpg", "a/x_1"), ("a/.x.jpg", "a/x"), ("o\u0308.jpg", "\u00f6"),
    ("a/1.jpg", "s3://bucket/a/1.jpg")])
def test_what_people_call_an_image(name, key):
    assert found([(None, name, "cat")], [("a.tar", key), ("a.tar", "b/2")]) == ({name: ("a.tar", key)}, [], [])


def test_the_keys_own_rule_goes_first():
    images = [("a.tar", "1"), ("a.tar", "x/1"), ("b.tar", "1.jpg")]
    said = [("a.tar", "1", "cat"), (None, "1.jpg", "dog"), (None, "x/1", "owl")]
    assert found(said, images)[0] == {"1": ("a.tar", "1"), "1.jpg": ("b.tar", "1.jpg"), "x/1": ("a.tar", "x/1")}


def test_a_name_of_several_images_is_of_none():
    assert found([(None, "1.jpg", "cat")], [("a.tar", "x/1"), ("a.tar", "y/1")]) == ({}, [], ["1.jpg"])
    assert found([(None, "1", "cat")], [("a.tar", "1"), ("b.tar", "1")]) == ({}, [], ["1"])


def test_an_image_that_two_values_fit_gets_none():
    assert found([(None, "x/1.jpg", "cat"), (None, "x/1.png", "dog")],
                 [("a.tar", "x/1")]) == ({}, [], ["x/1.jpg", "x/1.png"])
    assert found([(None, "x/1.jpg", "cat"), (None, "x/1.png", "cat")],
                 [("a.tar", "x/1")])[0] == {"x/1.jpg": ("a.tar", "x/1")}


def test_a_truth_of_a_shard_is_of_no_other_shard():
    assert found([("a.tar", "1", "cat")], [("b.tar", "1")]) == ({}, ["1"], [])


def test_a_loose_file_that_is_in_another_group_or_packed_keeps_its_truth():
    for image in ((GROUP, "a/1.png"), ("images-00000.tar", "a/1")):
        assert found([("images-first", "a/1.png", "cat")], [image]) == ({"a/1.png": image}, [], [])


def test_two_things_of_one_image():
    with pytest.raises(UserError, match=r"--truth t: it says two things of 1 in a.tar"):
        found([("a.tar", "1", "cat"), ("a.tar", "1", "dog")], [("a.tar", "1")])


@pytest.mark.parametrize("seed", range(20))
def test_generated_names(seed):
    """Names made from the keys of images, in many spellings: each name finds its own image."""
    rng = random.Random(seed)
    keys = {f"{rng.choice('abc')}{rng.randrange(30)}/{rng.choice(LETTERS)}{rng.randrange(60)}" for _ in range(80)}
    bases = [key.rpartition("/")[2] for key in keys]
    images = [(rng.choice(["a.tar", "b.tar"]), key) for key in sorted(keys)]
    said = []
    for _, key in images:
        short = bases.count(key.rpartition("/")[2]) == 1 and rng.random() < 0.5
        said.append((None, rng.choice(["", "/data/"]) * (not short) + (key.rpartition("/")[2] if short
                                                                       else key) + rng.choice(["", ".jpg", ".PNG"]),
                                                                       "cat"))
    rng.shuffle(said)
    by_name, unmatched, ambiguous = found(said, images)
    assert not unmatched and not ambiguous and sorted(by_name.values()) == sorted(images)
