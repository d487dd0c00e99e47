"""A folder of images -> shards: every image with a key of its own, the same bytes each time."""

import pytest

from pipeline.config import UserError
from pipeline.pack import pack
from pipeline.shards import read_samples


def test_every_image_has_a_key_of_its_own(tmp_path):
    images = tmp_path / "in"
    for name in ("b/x.jpg", "b/x.PNG", "a.1.jpg", "a.2.jpg", "a_1.gif", ".hidden.jpg", "notes.txt", "x.y/z.webp"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).write_bytes(name.encode())
    packed = pack(str(images), str(tmp_path / "out"), 2, "p")
    assert (packed.num_shards, packed.num_images, packed.left_out.total()) == (3, 6, 2)
    found = {}
    for shard in sorted((tmp_path / "out").iterdir()):
        with shard.open("rb") as file:
            found |= {(shard.name, sample.key): sample.encoded.decode() for sample in read_samples(file, 100)}
    assert len(found) == 6 and len({key for _, key in found}) == 6
    assert sorted(found.values()) == sorted(
        name for name in ("b/x.jpg", "b/x.PNG", "a.1.jpg", "a.2.jpg", "a_1.gif", "x.y/z.webp"))
    assert found["p-00002.tar", "b/x_2"] == "b/x.jpg"
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert pack(str(images), str(tmp_path / "out"), 2, "p").num_kept == 3
    (tmp_path / "out/p-00000.tar").write_bytes(b"other")
    (images / "x.y/z.webp").write_bytes(b"changed!!!!")
    assert pack(str(images), str(tmp_path / "out"), 2, "p").num_kept == 1
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name: after[name] == data for name, data in before.items()} == {
        "p-00000.tar": True, "p-00001.tar": True, "p-00002.tar": False}
    with pytest.raises(UserError, match=r"p-00002.tar, which this folder does not fill"):
        pack(str(images), str(tmp_path / "out"), 3, "p")


def test_a_shard_ends_before_it_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.pack.SHARD_BYTES", 10)
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(b"12345")
    assert pack(str(tmp_path), str(tmp_path / "out"), 3, "p").num_shards == 2


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no image"):
        pack(str(tmp_path), str(tmp_path / "out"), 3, "p")
