"""One spelling for a class, whatever stands before, behind and inside of its name."""

import math

import pytest

from pipeline.errors import UserError
from pipeline.model.classes import load_classes
from pipeline.model.spelling import find_alike, normalize_name, read_folder, read_id, read_name, read_number

PEAR = "po\u0308re"  # o and the dots apart


@pytest.mark.parametrize("text", [" pear", "pear ", "\ufeffpear", "pear\u200b", "\tpear\r\n", "\u00a0pear\u2060"])
def test_what_nobody_sees_at_the_ends_is_no_part_of_a_name(text):
    assert normalize_name(text) == read_name(text) == "pear" == read_folder(f"x/{text}/1.jpg")


def test_both_forms_of_a_letter_are_one_name():
    assert normalize_name(PEAR) == "p\u00f6re" == read_folder(f"{PEAR}/1.jpg")


@pytest.mark.parametrize(("text", "name"), [("-1", None), ("", None), (" ", None), ("NaN", None), ("0", "0"),
                                            ("10.0", "10"), ("0.", "0"), ("1.5", "1.5"),
                                            ("-2", "-2"), ("007", "007"), ("nano", "nano")])
def test_no_label_is_no_label(text, name):
    assert read_name(text) == name


def test_numbers_of_classes():
    assert [read_id(text) for text in ("7", "007", "7.0", "-1", "nan", "")] == ["7", "7", "7", None, None, None]
    for text in ("NA", "7.5", "cat"):
        with pytest.raises(ValueError):
            read_id(text)
    assert [read_number(number)
            for number in (0, 10.0, -1, -1.0, math.nan, 0.5, math.inf)] == ["0", "10", None, None, None, "0.5", "inf"]


@pytest.mark.parametrize("key", ["1.jpg", ".ipynb_checkpoints/1.jpg", "cats/.ipynb_checkpoints/1.jpg", "@eaDir/1.jpg",
                                 "x/__MACOSX/cats/1.jpg", " /1.jpg"])
def test_folders_that_are_no_classes(key):
    assert read_folder(key) is None


def test_names_that_look_alike():
    assert find_alike(["Pear", "pear", "apple", "red apple", "redapple", "plum"]) == [["Pear", "pear"],
                                                                                      ["red apple", "redapple"]]


def write(folder, *rows):
    (folder / "c.csv").write_text("label_id,wnid,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(folder / "c.csv")


def test_a_file_of_classes_is_read_in_the_same_spelling(tmp_path):
    assert load_classes(write(tmp_path, "0,,pear ", f"1,,\ufeff{PEAR}"))["label"].to_pylist() == ["pear", "p\u00f6re"]


@pytest.mark.parametrize(("rows", "message"), [
    (("0,,pear", "1,,pear "), "row 3, has label 'pear' a second time: row 2 has it"),
    (("0,,p\u00f6re", f"1,,{PEAR}"), "has label 'p\u00f6re' a second time"),
    (("0,n1,crane", "1,,crane"), "no wnids tell the two apart"),
    (("0,n1,crane", "1,n1,bird"), "has wnid 'n1' a second time")])
def test_the_same_name_twice_is_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        load_classes(write(tmp_path, *rows))


def test_wnids_tell_classes_of_one_label_apart(tmp_path):
    assert len(load_classes(write(tmp_path, "0,n1,crane", "1,n2,crane"))) == 2
