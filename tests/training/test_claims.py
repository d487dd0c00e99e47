"""A folder holds one training, and examples that do not fit it are refused."""

import sys

import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.inputs.read import Inputs
from pipeline.trainer.recipe import Recipe
from pipeline.training.claim import claim_folder
from pipeline.training.train import train
from pipeline.truth.sources import Examples
from tests.support.jobs import ROOT
from tests.support.toy_training import digits

INPUTS = Inputs(None, None, Config.max_image_bytes, None)


def test_a_folder_holds_one_training(tmp_path):
    claim_folder(str(tmp_path), {"recipe": {"seed": 0, "dropout": 0.2}, "input": "a"})
    claim_folder(str(tmp_path), {"recipe": {"seed": 0, "dropout": 0.2}, "input": "a"})
    with pytest.raises(UserError, match="another input and dropout"):
        claim_folder(str(tmp_path), {"recipe": {"seed": 0, "dropout": 0}, "input": "b"})


@pytest.mark.parametrize(("change", "message"), [
    ({"where": "member:cls"}, "is for tar shards"),
    ({"start": "seed:x"}, "--weights seed:x"),
    ({"recipe": Recipe(batch_size=6)}, "--batch-size 6: --input has 4 images with a truth"),
    ({"recipe": Recipe(batch_size=4)}, r"--batch-size 4: of 4 images 3 are left to train on \(--holdout 0.4\)"),
    ({"recipe": Recipe(batch_size=2)}, r"--holdout 0.4: of class 'digit3' no image is left to train on; add images"),
    ({"classes_path": str(ROOT / "pipeline/model/imagenet_1k.csv")},
     "'digit0' is no wnid, label or label_id of the model's 1000"),
])
def test_what_does_not_fit(tmp_path, change, message):
    given = {"recipe": Recipe(batch_size=4), "where": "folder", "start": None, "classes_path": None} | change
    examples = Examples(str(digits(tmp_path / "in", 1)), given["where"], INPUTS)
    with pytest.raises(UserError, match=message):
        train(examples, None, 0.4, given["recipe"], given["start"], given["classes_path"], str(tmp_path / "out"), 1,
              sys.stderr)
