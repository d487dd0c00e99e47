"""What a training reads, and what it says of the rest: in the same words as the other jobs."""

import io
from array import array
from collections import Counter

import pyarrow as pa
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.inputs.read import Inputs
from pipeline.model.classes import SCHEMA, load_classes
from pipeline.trainer.crops import ShardReport
from pipeline.training.coverage_printer import CoveragePrinter
from pipeline.training.labelled_shards import name_empty_classes, read_labelled_shards
from pipeline.truth.coverage import NothingMatches
from pipeline.truth.sources import Examples
from tests.support.tars import make_tar

INPUTS = Inputs(None, None, Config.max_image_bytes, None)


def no_cluster():
    raise AssertionError("a few bytes need no cluster")


@pytest.fixture
def tars(tmp_path):
    """Two tars of three images each, and one that is cut."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / f"in/{name}.tar").write_bytes(make_tar(*((f"cat/{name}{n}.jpg", b"image" * 500) for n in range(3))))
    (tmp_path / "in/cut.tar").write_bytes(make_tar(("dog/1.jpg", b"image" * 500), ("dog/2.jpg", b"image" * 500))[:2000])
    return tmp_path / "in"


def test_truth_by_file_names(tars, tmp_path):
    (tmp_path / "t.csv").write_text("file_name,label\na0.jpg,cat\nb1.JPG,dog\nnone.jpg,cat\n")
    found = read_labelled_shards(Examples(str(tars), str(tmp_path / "t.csv"), INPUTS), None, no_cluster)
    assert [(row["shard"], row["keys"], row["targets"])
            for row in found.shards.to_pylist()] == [("a.tar", ["cat/a0"], [0]), ("b.tar", ["cat/b1"], [1])]
    assert found.num_of_class == {"cat": 1, "dog": 1}
    covered = found.coverage
    assert (covered.num_with, covered.num_without, covered.num_unmatched) == (2, 4, 1)
    assert list(covered.failed) == ["cut.tar"]
    assert covered.examples == {"without": "cat/a1 in a.tar", "unmatched": "none.jpg, line 4: cat"}


def test_nothing_matches(tars, tmp_path):
    (tmp_path / "t.csv").write_text("path,label\nx/y.jpg,cat\n")
    with pytest.raises(NothingMatches,
                       match=r"it names, say, x/y.jpg, line 2: cat; --input .* has, say, cat/a0 in a.tar"):
        read_labelled_shards(Examples(str(tars), str(tmp_path / "t.csv"), INPUTS), None, no_cluster)


def test_a_value_that_is_no_class(tars, tmp_path):
    (tmp_path / "t.csv").write_text("file_name,label\na0.jpg,goldfish\na1.jpg,no fish\n")
    with pytest.raises(UserError, match=r"1 images are of no class of the 1,000 \(such as cat/a1, line 3: no fish\)"):
        read_labelled_shards(Examples(str(tars), str(tmp_path / "t.csv"), INPUTS), load_classes(), no_cluster)


def test_what_is_shown_once_all_was_seen(tars, tmp_path):
    (tmp_path / "t.csv").write_text("file_name,label\n" + "".join(f"{shard}{n}.jpg,{'dog' if n else 'cat'}\n"
                                                                  for shard in "ab" for n in range(3)))
    found = read_labelled_shards(Examples(str(tars), str(tmp_path / "t.csv"), INPUTS), None, no_cluster)
    stream = io.StringIO()
    printer = CoveragePrinter(found, stream, 2)
    same = 2**64 - 1
    assert stream.getvalue().splitlines() == [("truth: 6 images: 6 with a truth, 0 without; what is rejected is "
                                              "counted in the first epoch"),
                                              f"note: cut.tar could not be read: {found.coverage.failed['cut.tar']}"]
    stream.truncate(stream.seek(0))
    first = ShardReport("a.tar", "train", Counter({("truncated", 0): 1}), array("Q", [same]), array("i", [1]))
    other = ShardReport("b.tar", "train", Counter(), array("Q", [same]), array("i", [0]))
    for report in (first, ShardReport("a.tar", "valid"), other, first):
        printer.add(report)
        assert not stream.getvalue()
    printer.add(ShardReport("b.tar", "valid", Counter({("corrupt", 0): 1})))
    assert stream.getvalue().splitlines() == [
        "truth: 6 images: 4 with a truth, 0 without, 2 rejected (truncated 1, corrupt 1), of which 2 have a truth",
        "note: images (by SHA-256) that are in several classes: 1",
        "note: classes that have images, but none that can be read: cat"]
    printer.finish()
    assert len(stream.getvalue().splitlines()) == 3


def test_two_classes_of_one_label(tars, tmp_path):
    """The bird, of which no image can be read, and the machine, of which there is none."""
    (tmp_path / "t.csv").write_text("file_name,wnid\na0.jpg,n1\na1.jpg,n3\n")
    classes = pa.table([range(3), ["n1", "n2", "n3"], ["crane", "crane", "tench"]], schema=SCHEMA)
    found = read_labelled_shards(Examples(str(tars), str(tmp_path / "t.csv"), INPUTS), classes, no_cluster)
    assert found.num_of_class == {"crane (n1)": 1, "crane (n2)": 0, "tench": 1}
    assert found.add_reports([ShardReport("a.tar", "train",
                                          Counter({("truncated",
                                                    0): 1}))]).by_class == {"crane (n1)": (0, 1), "tench": (1, 1)}


def test_classes_without_images():
    assert name_empty_classes({"cat": 1, "dog": 0}) == ["classes that have no image: dog"]
    assert name_empty_classes({"cat": 1}) == []
