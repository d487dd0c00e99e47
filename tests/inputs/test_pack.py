"""A folder of images -> shards: every image with a key of its own, its texts beside it, the same bytes each time."""

import os
import random
import tarfile
from pathlib import Path

import fsspec
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.formats.tar import read_samples
from pipeline.inputs import pack as packing
from pipeline.inputs.find import find_images, find_shards
from pipeline.inputs.pack import pack
from pipeline.inputs.pack_members import make_keys
from pipeline.inputs.read import Inputs
from pipeline.truth import sources
from tests.support.jobs import job

INPUTS = Inputs(None, None, Config.max_image_bytes, None)


def fill(root: Path, *names: str) -> Path:
    """A folder of files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def keys(output: Path) -> dict[str, str]:
    """The key of each image of the shards, by its content."""
    found = []
    for shard in sorted(output.glob("*.tar")):
        with shard.open("rb") as file:
            found += [(sample.encoded.decode(), sample.key) for sample in read_samples(file, 2**20)]
    assert len(found) == len(dict(found))
    return dict(found)


def members(output: Path) -> list[str]:
    names = []
    for shard in sorted(output.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += tar.getnames()
    return names


def truths(output: Path, where: str = "member:cls") -> dict[str, str]:
    return {row["name"]: row["value"]
            for row in sources.read_truth(sources.Examples(str(output), where, INPUTS)).given.to_pylist()}


def shard_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}


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


def test_texts_go_along_directly_behind_their_image(tmp_path):
    root = fill(tmp_path / "in", "a/1.jpg", "a/1.cls", "a/1.txt", "a/2.jpg", "a/2.jpg.json", "a/3.JPG", "a/3.JSON",
                "a/b.c.png", "a/b.c.CLS",
                "x.jpg", "x.png", "x.cls", "b/9.cls", "notes", "a/1.heic")
    packed = pack(str(root), str(tmp_path / "out"), 2, "p", ("cls", "JSON"))
    assert members(tmp_path / "out") == ["a/1.jpg", "a/1.cls", "a/2.jpg", "a/2.json", "a/3.jpg", "a/3.json",
                                         "a/b_c.png", "a/b_c.cls",
                                         "x.jpg", "x.cls", "x_2.png", "x_2.cls"]
    assert truths(tmp_path / "out") == {"a/1": "a/1.cls", "a/b_c": "a/b.c.CLS", "x": "x.cls", "x_2": "x.cls"}
    assert truths(tmp_path / "out", "member:json") == {"a/2": "a/2.jpg.json", "a/3": "a/3.JSON"}
    assert (packed.num_images, packed.num_texts) == (6, 6)
    assert packed.sentences() == [
        "3 left out, no images by their names (.cls 1, .heic 1, none 1), such as b/9.cls",
        "1 left out, beside images and not packed (.txt 1), such as a/1.txt; --members cls,json,txt takes them along"]


def test_texts_that_are_not_packed_are_counted_and_change_no_byte(tmp_path):
    root = fill(tmp_path / "in", "a/1.jpg", "a/2.jpg", "b/9.txt")
    pack(str(root), str(tmp_path / "out"), 2, "p")
    before = shard_bytes(tmp_path / "out")
    fill(root, "a/1.cls", "a/2.cls", "a/2.json", "a/1.jpg~")
    packed = pack(str(root), str(tmp_path / "out"), 2, "p")
    assert packed.num_kept == 1 and packed.num_texts == 0 and shard_bytes(tmp_path / "out") == before
    assert packed.sentences() == [
        "1 left out, no images by their names (.txt 1), such as b/9.txt",
        ("4 left out, beside images and not packed (.cls 2, .json 1, none 1), such as a/1.cls; --members cls,json "
        "takes them along")]


def test_of_two_texts_that_would_be_one_member_one_is_packed_and_the_other_is_told(tmp_path):
    packed = pack(str(fill(tmp_path / "in", "1.jpg", "1.CLS", "1.cls", "1.jpg.cls")), str(tmp_path / "out"), 2, "p",
                  ("cls",))
    assert truths(tmp_path / "out") == {"1": "1.jpg.cls"}
    assert packed.sentences() == [("2 left out, would be packed by the same name as another beside their image (.cls "
                                  "2), such as 1.CLS")]


def test_a_changed_text_makes_its_shard_again(tmp_path):
    root = fill(tmp_path / "in", "1.jpg", "1.cls", "2.jpg", "3.jpg", "3.cls")
    assert pack(str(root), str(tmp_path / "out"), 1, "p").num_kept == 0
    assert pack(str(root), str(tmp_path / "out"), 1, "p", ("cls",)).num_kept == 1  # 2.jpg has no text
    before = shard_bytes(tmp_path / "out")
    assert pack(str(root), str(tmp_path / "out"), 1, "p", ("cls",)).num_kept == 3
    (root / "3.cls").write_bytes(b"another class")
    assert pack(str(root), str(tmp_path / "out"), 1, "p", ("cls",)).num_kept == 2
    assert truths(tmp_path / "out") == {"1": "1.cls", "3": "another class"}
    assert {name for name, data in shard_bytes(tmp_path / "out").items() if data != before[name]} == {"p-00002.tar"}
    pack(str(root), str(tmp_path / "again"), 1, "p", ("cls",))
    assert shard_bytes(tmp_path / "again") == shard_bytes(tmp_path / "out")


def test_texts_count_towards_the_size_of_a_shard(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.inputs.pack.SHARD_BYTES", 14)
    root = fill(tmp_path / "in", "1.jpg", "1.cls", "2.jpg", "2.cls")
    assert pack(str(root), str(tmp_path / "out"), 9, "p").num_shards == 1
    assert pack(str(root), str(tmp_path / "other"), 9, "p", ("cls",)).num_shards == 2


@pytest.mark.parametrize(("change", "says"), [
    (lambda path: path.unlink(), "1.cls is gone, or may not be read any more; run it again"),
    (lambda path: path.write_bytes(b"longer than before"), "1.cls was replaced since it was listed; run it again")])
def test_a_text_that_is_not_what_was_listed_is_told(tmp_path, monkeypatch, change, says):
    root, arrange = fill(tmp_path / "in", "1.jpg", "1.cls"), packing.order_members
    monkeypatch.setattr(packing, "order_members", lambda *args: (arrange(*args), change(root / "1.cls"))[0])
    with pytest.raises(UserError, match=says):
        pack(str(root), str(tmp_path / "out"), 2, "p", ("cls",))
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_too_large_is_refused_before_anything_is_written(tmp_path):
    root = fill(tmp_path / "in", "1.jpg", "2.jpg", "2.json")
    os.truncate(root / "2.json", 2**22 + 1)
    with pytest.raises(
        UserError, match=r"2.json has 4,194,305 bytes, and a text beside an image has 4,194,304 at most; take it away"
    ):
        pack(str(root), str(tmp_path / "out"), 1, "p", ("json",))
    assert not (tmp_path / "out").exists() and pack(str(root), str(tmp_path / "out"), 1, "p").num_shards == 2


@pytest.mark.parametrize(("given", "says"), [
    (".cls", "suffixes without their dots"), ("", "it takes suffixes"), ("cls,,txt", "it takes suffixes"),
    ("a/b", "it takes suffixes"),
    ("seg.json", "suffixes without their dots"), ("..", "it takes suffixes"),
    ("cls,JPG", "names jpg, the suffix of images or shards"),
    ("heic", "names heic"), ("tar", "names tar"), ("parquet", "names parquet")])
def test_what_is_no_suffix_of_a_text_is_refused_before_anything_is_listed(tmp_path, given, says):
    with pytest.raises(UserError, match=says) as caught:
        pack(str(tmp_path / "absent"), str(tmp_path / "out"), 1, "p", given.split(","))
    assert str(caught.value).startswith("--members names ")


@pytest.mark.parametrize("prefix", ["", " ", "a/b", "/abs", "..", "../x", ".hidden", "_temporary", "a\\b", "a\0b",
                                    "a\nb", "a\udcff", "x" * 201,
                                    "ü" * 101])
def test_a_prefix_that_leads_out_of_the_output_or_hides_the_shards_is_refused(tmp_path, prefix):
    root = fill(tmp_path / "in", "1.jpg")
    with pytest.raises(UserError, match=r"^--prefix is ") as caught:
        pack(str(root), str(tmp_path / "out/put"), 1, prefix)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "1.jpg"]


def test_the_longest_prefix_is_written_and_found(tmp_path):
    root = fill(tmp_path / "in", "1.jpg")
    for prefix in ("x" * 200, "ü" * 100, "a..b", "-", "a=b", "label=1"):
        pack(str(root), str(tmp_path / "out"), 1, prefix)
        assert pack(str(root), str(tmp_path / "out"), 1, prefix).num_kept == 1
    assert len(find_shards(str(tmp_path / "out")).shards) == 6


def test_shards_of_a_longer_prefix_are_another_folders(tmp_path):
    pack(str(fill(tmp_path / "in", "1.jpg")), str(tmp_path / "out"), 1, "images-of-birds")
    assert pack(str(tmp_path / "in"), str(tmp_path / "out"), 1, "images").num_shards == 1


@pytest.mark.parametrize("spelled", ["{0}", "{0}/", "{0}/.", "{0}/sub/..", "file://{0}", "FILE:{0}", "{1}/link",
                                     "//{0}"])
def test_an_output_that_is_the_input_is_refused(tmp_path, spelled):
    root = fill(tmp_path / "in", "1.jpg", "sub/2.jpg")
    (tmp_path / "link").symlink_to(root)
    for here, there in ((str(root), spelled.format(root, tmp_path)), (spelled.format(root, tmp_path), str(root))):
        with pytest.raises(UserError, match="--input and --output name the same place"):
            pack(here, there, 1, "p")
    assert sorted(path.name for path in root.iterdir()) == ["1.jpg", "sub"]


@pytest.mark.parametrize("output", ["S3://bucket/in/", "s3a://bucket/in"])
def test_an_output_that_is_the_input_is_refused_by_whatever_scheme(output):
    with pytest.raises(UserError, match="--input and --output name the same place"):
        pack("s3://bucket/in", output, 1, "p")
    with pytest.raises(UserError, match="--input and --output name the same place"):
        Config(input="s3://bucket/in", output=output)
    with pytest.raises(UserError, match="is in the folder labels of --output"):
        Config(input="s3a://bucket/in/labels/x", output="s3://bucket/in")


def test_an_output_below_the_input_is_no_input(tmp_path):
    root = fill(tmp_path, "1.jpg", "1.cls", "out/kept.jpg", "out/kept.cls")
    for kept in (0, 1):
        packed = pack(str(root), str(root / "out"), 1, "p", ("cls",))
        assert (packed.num_kept, packed.sentences()) == (kept, [])
    assert keys(root / "out") == {"1.jpg": "1"}


def test_an_input_below_the_output_is_read(tmp_path):
    fill(tmp_path, "out/in/1.jpg")
    for kept in (0, 1):
        assert pack(str(tmp_path / "out/in"), str(tmp_path / "out"), 1, "p").num_kept == kept
    assert keys(tmp_path / "out") == {"out/in/1.jpg": "1"}


def test_an_input_below_the_output_is_listed_from_a_store():
    fs = fsspec.filesystem("memory")
    for name in ("/below/in/1.jpg", "/below/in/out/2.jpg", "/below/in/day/3.tar"):
        fs.pipe_file(name, b"x")
    try:
        assert find_images("memory://below/in", "memory://below")[0]["path"].to_pylist() == ["1.jpg", "out/2.jpg"]
        assert find_images("memory://below/in", "memory://below/in/out")[0]["path"].to_pylist() == ["1.jpg"]
        assert find_shards("memory://below/in", output="memory://below").shards["path"].to_pylist() == ["day/3.tar"]
        assert find_shards("memory://below/in", "tar", "day",
                           "memory://below").shards["path"].to_pylist() == ["day/3.tar"]
        assert len(find_shards("memory://below/in", "tar", "day", "memory://below/in/day").shards) == 0
    finally:
        fs.rm("/below", recursive=True)


def test_nothing_is_written_where_a_link_leads(tmp_path):
    root = fill(tmp_path / "in", "1.jpg")
    fill(tmp_path, "elsewhere/precious.tar", "out/kept")
    (tmp_path / "out/p-00000.tar").symlink_to(tmp_path / "elsewhere/precious.tar")
    with pytest.raises(
        UserError, match=r"p-00000.tar is a link to .*/elsewhere/precious.tar, and nothing is written there"
    ):
        pack(str(root), str(tmp_path / "out"), 1, "p")
    assert (tmp_path / "elsewhere/precious.tar").read_bytes() == b"elsewhere/precious.tar"
    pack(str(root), str(tmp_path / "elsewhere"), 1, "p")
    (tmp_path / "out/p-00000.tar").unlink()
    (tmp_path / "out/p-00000.tar").symlink_to(
        tmp_path / "elsewhere/p-00000.tar"
    )  # as git-annex has them: this very shard
    assert pack(str(root), str(tmp_path / "out"), 1, "p").num_kept == 1


def test_an_output_that_cannot_be_written_is_told(tmp_path):
    root = fill(tmp_path, "in/1.jpg", "file") / "in"
    with pytest.raises(UserError, match=r"^--output .*/file cannot be used"):
        pack(str(root), str(tmp_path / "file"), 1, "p")
    (tmp_path / "out/p-00000.tar").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^--output .*/out cannot be used"):
        pack(str(root), str(tmp_path / "out"), 1, "p")


def test_a_web_server_is_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"^--input https://host/photos: a web server does not list its files"):
        pack("https://host/photos", "out", 1, "p")


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


@pytest.mark.s3
@pytest.mark.parametrize(("source", "output"), [("s3://photos/packing/in", "s3a://photos/packing/in/out"),
                                                ("s3a://photos/packing/in", "s3://photos/packing")])
def test_a_bucket_is_packed_into_itself(s3, monkeypatch, source, output):
    environ, fs = s3
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for name in ("a/1.jpg", "a/1.cls", "a/1.png"):
        fs.pipe_file(f"photos/packing/in/{name}", name.encode())
    try:
        for kept in (0, 1):
            packed = pack(source, output, 5, "p", ("cls",))
            assert (packed.num_images, packed.num_texts, packed.num_kept, packed.sentences()) == (2, 2, kept, [])
        found = sources.read_truth(sources.Examples(output + "/p-00000.tar", "member:cls", INPUTS)).given
        assert {row["name"]: row["value"] for row in found.to_pylist()} == {"a/1": "a/1.cls", "a/1_2": "a/1.cls"}
    finally:
        fs.rm("photos/packing", recursive=True)
