"""A folder of images becomes shards: every image has a key of its own, and the bytes are the same each time."""

import random

import pytest

from pipeline.errors import UserError
from pipeline.formats.tars.read import read_samples
from pipeline.inputs.pack import pack
from pipeline.inputs.pack_members import make_keys
from tests.support.jobs import job
from tests.support.packed import fill, keys, truths


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
    monkeypatch.setattr("pipeline.inputs.pack.SHARD_BYTES", 10)
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(b"12345")
    assert pack(str(tmp_path), str(tmp_path / "out"), 3, "p").num_shards == 2


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no image"):
        pack(str(tmp_path), str(tmp_path / "out"), 3, "p")


@pytest.mark.parametrize(("names", "expected"), [
    (("x.jpg", "x.png", "x_2.jpg"), {"x.jpg": "x", "x.png": "x_3", "x_2.jpg": "x_2"}),
    (("a.1.jpg", "a_1.jpg", "a_1.png", "a_1_2.gif", "a_1_3.gif"),
     {"a.1.jpg": "a_1", "a_1.jpg": "a_1_4", "a_1.png": "a_1_5", "a_1_2.gif": "a_1_2", "a_1_3.gif": "a_1_3"}),
    (("d/x.jpg", "d/x.png", "x_2.jpg"), {"d/x.jpg": "d/x", "d/x.png": "d/x_2", "x_2.jpg": "x_2"}),
    (("x.jpg", "x.png", "x_2.jpg", "x_2.png"), {"x.jpg": "x", "x.png": "x_3", "x_2.jpg": "x_2", "x_2.png": "x_2_2"}),
])
def test_a_key_that_is_an_images_own_is_given_to_no_other(tmp_path, names, expected):
    pack(str(fill(tmp_path / "in", *names)), str(tmp_path / "out"), 2, "p")
    assert keys(tmp_path / "out") == expected


def test_make_keys_a_store_that_begin_with_a_slash_are_no_absolute_names():
    assert list(make_keys(["/etc/x.jpg", "//y.jpg", "etc/x.jpg"])) == ["etc/x", "y", "etc/x_2"]


@pytest.mark.parametrize("seed", range(20))
def test_any_folder(tmp_path, seed):
    """Every image has one key, its own if that is free, and each text is read for its image."""
    rng = random.Random(seed)
    stems = [rng.choice(["", "d/", "d.e/"]) + rng.choice(["x", "X", "x_2", "x_2_2", "x.2", "x..y", "_", "é", "x_3",
                                                          "a b"]) for _ in range(60)]
    images = {f"{stem}.{rng.choice(['jpg', 'JPG', 'png', 'webp', 'jpeg'])}" for stem in stems}
    texts = {rng.choice([stem, rng.choice(sorted(images)), f"alone{at}"]) + "." + rng.choice(["cls", "CLS", "txt"])
             for at, stem in enumerate(stems)}
    root = fill(tmp_path / "in", *images, *texts)
    packed = pack(str(root), str(tmp_path / "out"), rng.randrange(1, 30), "p", ("cls",))
    found = keys(tmp_path / "out")
    assert set(found) == images and len(set(found.values())) == len(images) == packed.num_images

    def own(image: str) -> str:
        head, slash, base = image.rpartition("/")
        return head + slash + base.rpartition(".")[0].replace(".", "_")

    firsts: dict[str, str] = {}
    for image in sorted(images):
        firsts.setdefault(own(image), image)
    assert {image: found[image] for image in firsts.values()} == {image: key for key, image in firsts.items()}
    said = truths(tmp_path / "out")
    for image, key in found.items():
        stem = image.rpartition(".")[0]
        right = {f"{name}.{suffix}" for name in (image, stem) for suffix in ("cls", "CLS")} & texts
        assert (said[key] in right) if right else key not in said
    used = set(said.values())
    assert len(texts) == len(used) + packed.left_out.total() + packed.beside.total()
    pack(str(root), str(tmp_path / "again"), packed.num_images, "p", ("cls",))
    assert keys(tmp_path / "again") == found and truths(tmp_path / "again") == said


def test_the_job_tells_what_it_packed_and_what_not(tmp_path):
    root = fill(tmp_path / "in", "a/1.jpg", "a/1.cls", "a/1.json")
    done = job("pack", "--input", root, "--output", tmp_path / "out", "--members", "cls")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"1 images and 1 texts beside them in 1 shards at {tmp_path / 'out'} (0 of them were there before)",
        ("left out: 1 left out, beside images and not packed (.json 1), such as a/1.json; --members cls,json takes "
        "them along")]
    for flags in (("--members", "jpg"), ("--prefix", "../x"), ("--output", root)):
        refused = job("pack", "--input", root, "--output", tmp_path / "other", *flags)
        assert refused.returncode == 2 and refused.stderr.startswith("error: --") and refused.stderr.count("\n") == 1
    told = job("pack", "--help").stdout
    assert "--members cls,json" in told and "member:cls" in told and "Exit status" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
