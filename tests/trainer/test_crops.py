"""Crops for training differ each time, and crops for validation are those of labelling."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.config import Config
from pipeline.images.decode import decode
from pipeline.inputs.read import Inputs
from pipeline.model.spec import INPUT_SIZE
from pipeline.trainer.crops import LABELLED_SHARDS, Crops
from tests.support.tars import make_tar

INPUTS = Inputs(None, None, Config.max_image_bytes, None)


def crops(tmp_path, members, side="train", holdout=0.0, size=75, augment=False):
    """What the stage makes of a tar of these members, all of class 3; and what it tells."""
    (tmp_path / "a.tar").write_bytes(make_tar(*members))
    keys = [name.rpartition(".")[0] for name, _ in members]
    row = {"shard": "a.tar", "uri": str(tmp_path / "a.tar"), "size": 1, "keys": keys, "targets": [3] * len(keys),
           "group": None}
    said = []
    stage = Crops(INPUTS, size, side, holdout, augment, 2, SimpleNamespace(put=said.append))
    return list(stage(pa.Table.from_pylist([row], schema=LABELLED_SHARDS))), said


def test_validation_crops_are_those_of_labelling(tmp_path, photographs):
    jpegs = [(name, data) for name, data in photographs if name.endswith("jpg")]
    (block,), _ = crops(tmp_path, jpegs, size=INPUT_SIZE)
    slot_HWC = np.empty((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    for (_, encoded), crop_HWC in zip(jpegs, block["image"], strict=True):
        decode(encoded, slot_HWC, max_pixels=10**9, max_bytes=10**9, reduce=False)
        apart = np.abs(crop_HWC.astype(int) - slot_HWC)
        assert apart.mean() < 0.05 and apart.max() <= 3
    assert block["target"].tolist() == [3] * len(jpegs)


def test_training_crops_differ_from_time_to_time(tmp_path, photographs):
    (first,), _ = crops(tmp_path, photographs, augment=True)
    (second,), _ = crops(tmp_path, photographs, augment=True)
    assert first["image"].shape == (len(photographs), 75, 75, 3) and first["image"].dtype == np.uint8
    assert (first["image"] != second["image"]).any((1, 2, 3)).all()


def test_each_image_is_trained_on_or_held_out(tmp_path):
    members = []
    for n in range(150):
        Image.new("RGB", (80, 80), (n, 0, 0)).save(tmp_path / "x.png")
        members.append((f"k{n}.png", (tmp_path / "x.png").read_bytes()))
    reds = {side: [int(image[0, 0, 0]) for block in crops(tmp_path, members, side, 0.3)[0] for image in block["image"]]
            for side in ("train", "valid")}
    assert sorted(reds["train"] + reds["valid"]) == list(range(150))
    assert 25 < len(reds["valid"]) < 65


def test_what_cannot_be_decoded_is_told(tmp_path, photographs):
    blocks, (seen,) = crops(tmp_path, [*photographs[:2], ("broken.jpg", photographs[3][1][:2000])])
    assert sum(len(block["image"]) for block in blocks) == 2
    assert seen.rejected == {("truncated", 3): 1} and seen.failed is None
    assert len(seen.digests) == len(seen.targets) == 2
