"""A head fitted on the tables' embeddings: better than chance on what it has not seen, and the same through the job."""

import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from subprocess import run

import duckdb
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.runners.checks import check_classes
from pipeline.training.finetune import fit
from pipeline.truth.class_ids import find_targets, make_classes
from pipeline.truth.holdout import is_held_out
from pipeline.truth.matching import GIVEN_TRUTHS
from pipeline.truth.sources import Truth
from tests.support.jobs import SEED, WEIGHTS, job, load_seed, make_weights
from tests.support.label_tables import said, tables

DIGITS = 48


def save_digits(folder: Path, name: Callable[[int, bool], str]) -> None:
    """Pictures of digits, each by the name that its number, and whether the digit is even, give it."""
    digits = load_digits()
    for n, (image_HW, digit) in enumerate(zip(digits.images[:DIGITS], digits.target[:DIGITS], strict=True)):
        path = folder / name(n, digit % 2 == 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(image_HW * 15)).resize((96, 96), Image.Resampling.BICUBIC).save(path)


@pytest.mark.slow
def test_own_classes_from_folder_to_table(tmp_path):
    """Digits in folders: labelled, a head fitted, labelled with it, judged; every label as the head itself gives it."""
    save_digits(tmp_path, lambda n, even: f"in/{'even' if even else 'odd'}/{n:04}.png")
    first = job("label", "--input", tmp_path / "in", "--output", tmp_path / "out", *SEED)
    assert first.returncode == 0, first.stderr
    fitted = job("finetune", "--input", tmp_path / "in", "--output", tmp_path / "out", "--weights", WEIGHTS,
                 "--save", tmp_path / "own")
    assert fitted.returncode == 0, fitted.stderr
    own = (tmp_path / "own/weights.safetensors", tmp_path / "own/classes.csv")
    again = job("label", "--input", tmp_path / "in", "--output", tmp_path / "own-out", "--weights", own[0], "--classes",
                own[1], "--precision", "fp32")
    assert again.returncode == 0, again.stderr
    judged = job("evaluate", "--input", tmp_path / "in", "--output", tmp_path / "own-out")
    assert judged.returncode == 0, judged.stderr

    known = duckdb.sql("SELECT shard, key AS name, split_part(key, '/', 1) AS value, false AS strange, NULL::BIGINT "
                       f"AS line FROM '{tmp_path}/out/labels/**/*.parquet'").to_arrow_table().cast(GIVEN_TRUTHS)
    head = fit(str(tmp_path / "out"), str(WEIGHTS), lambda _: Truth("folder", known), 0.2)
    assert head.num_fitted + head.num_held_out == DIGITS
    assert head.top1 > head.chance + 0.2
    assert f"top-1 {head.top1:.2%}" in fitted.stdout
    before, after = (duckdb.sql(f"SELECT * FROM '{tmp_path}/{out}/labels/**/*.parquet' ORDER BY shard, index")
                     for out in ("out", "own-out"))
    embedding_ND = np.stack(before.fetchnumpy()["embedding"])
    logit_NK = embedding_ND @ head.state["last_linear.weight"].numpy().T + head.state["last_linear.bias"].numpy()
    table = after.to_arrow_table()
    assert table["label_id"].to_pylist() == logit_NK.argmax(1).tolist()
    prob_N = (np.exp(logit_NK) / np.exp(logit_NK).sum(1, keepdims=True)).max(1)
    assert np.abs(np.array(table["prob"]) - prob_N).max() < 1e-3
    assert {*table["label"].to_pylist()} == {"even", "odd"}


@pytest.fixture(scope="module")
def separable(tmp_path_factory):
    """An output of WEIGHTS whose embeddings are noise, but for 30 dimensions a class; its truth, of three classes."""
    random = np.random.default_rng(0)
    known = random.integers(0, 3, 300)
    embedding_ND = random.normal(5, 3, (300, 1536)).astype(np.float32)
    embedding_ND[:, 107] = 100
    for number in range(3):
        embedding_ND[known == number, 30 * number:30 * (number + 1)] += 4
    folder = tmp_path_factory.mktemp("out")
    tables(folder, np.full((300, 1000), 1e-3), load_classes(), model=weights.identify(str(make_weights())).model_id,
           embedding=embedding_ND,
           digests=[sha256(str(n).encode()).hexdigest() for n in range(300)])
    return str(folder), [("b", "a", "c")[n] for n in known]


def test_a_head_of_several_classes(separable):
    head = fit(separable[0], str(WEIGHTS), said(separable[1]), 0.25)
    assert head.classes["label"].to_pylist() == ["a", "b", "c"]
    assert head.top1 > 0.95
    assert head.chance < 0.6
    assert 50 < head.num_held_out < 100
    check_classes(len(head.state["last_linear.weight"]), head.classes)
    seed = load_seed()
    assert all((head.state[name] == seed[name]).all() for name in seed if not name.startswith("last_linear"))


def test_truth_that_has_nothing_to_learn_gives_chance(separable):
    shuffled = np.random.default_rng(1).permutation(separable[1]).tolist()
    head = fit(separable[0], str(WEIGHTS), said(shuffled), 0.25)
    assert abs(head.top1 - 1 / 3) < 0.2


def test_other_weights_than_those_of_the_tables(separable):
    with pytest.raises(UserError, match=r"inception_v4-.*no tables can be read there"):
        fit(separable[0], "seed:1", said(separable[1]), 0.25)


def test_too_few_images(separable):
    with pytest.raises(
        UserError, match=r"too few images of rare \(1 images\): none is left to fit, once 25% are held out"
    ):
        fit(separable[0], str(WEIGHTS), said([*separable[1][:2], "rare", *separable[1][3:]]), 0.25)
    with pytest.raises(UserError, match=r"names 1 classes \(a\)"):
        fit(separable[0], str(WEIGHTS), said(["a"] * 300), 0.25)


def test_none_held_out_gives_no_accuracy(separable):
    head = fit(separable[0], str(WEIGHTS), said(separable[1]), 1e-6)
    assert (head.num_held_out, head.top1, head.chance) == (0, None, None)


def test_label_ids_are_the_ids_of_the_classes():
    """Else the same file would mean other classes when it judges what was fitted by it."""
    assert make_classes(["1", "0", "2"], "label_id")["label"].to_pylist() == ["0", "1", "2"]
    with pytest.raises(UserError, match=r"its label_ids are 1, 2, 3, …, and 0 is missing: .* call the column label"):
        make_classes(["1", "2", "3"], "label_id")
    assert make_classes(["1", "2", "3"], "label")["label"].to_pylist() == ["1", "2", "3"]


def test_classes_of_a_truth():
    assert make_classes(["10", "9", "9"])["label"].to_pylist() == ["9", "10"]
    assert make_classes(["n01443537", "mine"]).to_pylist() == [
        {"label_id": 0, "wnid": None, "label": "mine"}, {"label_id": 1, "wnid": "n01443537", "label": "goldfish"}]
    assert find_targets(["goldfish", "n01443537", "mine", "x"],
                        make_classes(["n01443537", "mine"])).tolist() == [1, 1, 0, -1]
    with pytest.raises(UserError, match="1,001 classes, and such a file is taken for Google's"):
        make_classes([str(n) for n in range(1001)])


def test_a_share_is_held_out_by_digest():
    digests = [sha256(str(n).encode()).hexdigest() for n in range(2000)]
    assert abs(np.mean([is_held_out(one, 0.3) for one in digests]) - 0.3) < 0.05
    assert all(is_held_out(one, 0.4) for one in digests if is_held_out(one, 0.3))
    assert abs(np.mean([is_held_out(one, 0.3, salt=1) for one in digests if is_held_out(one, 0.3)]) - 0.3) < 0.07


def test_a_share_that_is_none():
    done = run([sys.executable, "jobs/finetune.py", "--output", "x", "--save", "y", "--input", "z", "--holdout", "20"],
               check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--holdout is 20.0; it must be less than 1." in done.stderr
