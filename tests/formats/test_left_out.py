"""What gives no row: which files and members those are, and that each is counted."""

import io
import os
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.formats.left_out import MAX_SUFFIXES, LeftOut, suffix_of
from pipeline.formats.tars.read import read_samples
from pipeline.inputs.find import check_found, find_shards
from pipeline.inputs.read import Inputs
from pipeline.tables.owner.claim import check_kind
from tests.support.tars import make_tar


def folder_of(tmp_path, *names: str):
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))
    return str(tmp_path / "in")


def counted(left_out: LeftOut) -> dict[tuple[str, str], int]:
    return {(row["reason"], row["suffix"]): row["num_files"] for row in left_out.rows()}


def read(data: bytes, image_suffix: str | None = None) -> tuple[dict[str, bytes], LeftOut]:
    left_out = LeftOut()
    samples = list(read_samples(io.BytesIO(data), 100, None, None, image_suffix, left_out))
    return {sample.key: sample.encoded for sample in samples}, left_out


@pytest.mark.parametrize(("name", "suffix"), [
    ("a.jfif", ".jfif"), ("x.y/b.JPE", ".jpe"), ("IMG_1", "none"), (".hidden", "none"), ("a.tar.gz", ".gz"),
    ("what is this. really", "none"),
    ("a.b/c", "none"), ("trailing.", "none"), ("ü.heic", ".heic"), ("Screenshot 10.15.01", ".01")])
def test_the_suffix_of_a_name(name, suffix):
    assert suffix_of(name) == suffix
    many = LeftOut()
    many.add_paths("other_name", pa.chunked_array([[name]]))
    assert counted(many) == {("other_name", suffix): 1}


def test_suffixes_without_end_count_as_others():
    left_out = LeftOut()
    for number in range(1000):
        left_out.add_name("other_name", f"scan.{number:04}")
    assert len(left_out.counts) == MAX_SUFFIXES + 1 and left_out.total() == 1000


def test_members_that_are_no_images_by_their_names_are_counted_unless_they_are_beside_one():
    found, left_out = read(make_tar(
        ("a.jpg", b"1"), ("a.json", b"{}"), ("a.txt", b"t"), ("b.jfif", b"2"), ("c.jpe", b"3"), ("noext", b"4"),
        ("d.heic", b"5"),
        ("e.png", b"6"), ("e.avif", b"7"), ("f.json", b"{}"), ("inner.tar", b"8")))
    assert list(found) == ["a", "e"]
    assert counted(left_out) == {("other_name", ".jfif"): 1, ("other_name", ".jpe"): 1, ("other_name", "none"): 1,
                                 ("other_name", ".heic"): 1,
                                 ("same_key", ".avif"): 1, ("other_name", ".json"): 1, ("other_name", ".tar"): 1}


def test_images_that_share_a_key_are_counted_or_chosen():
    data = make_tar(("Screenshot 10.15.01.jpg", b"1"), ("Screenshot 10.15.02.jpg", b"2"), ("0000.depth.png", b"d"),
                    ("0000.jpg", b"3"),
                    ("0001.depth.png", b"e"), ("0001.JPG", b"4"), ("0002.depth.png", b"f"))
    found, left_out = read(data)
    assert found == {"Screenshot 10": b"1", "0000": b"d", "0001": b"e", "0002": b"f"}
    assert counted(left_out) == {("same_key", ".jpg"): 3}
    assert (
        "3 left out, share a key with an image before them (.jpg 3), such as 0000.jpg" in left_out.sentences()[0]
        or "such as Screenshot 10.15.02.jpg" in left_out.sentences()[0]
    )
    found, left_out = read(data, "jpg")
    assert found == {"0000": b"3", "0001": b"4"} and left_out.total() == 5
    assert read(data, ".depth.PNG")[0] == {"0000": b"d", "0001": b"e", "0002": b"f"}


def test_leftovers_of_other_tools_in_a_tar_are_no_images():
    found, left_out = read(make_tar(("._a.jpg", b"x"), ("a.jpg", b"1"), ("__MACOSX/._b.jpg", b"x"),
                                    ("p/@eaDir/c.jpg/THUMB.jpg", b"x"),
                                    (".ipynb_checkpoints/d.jpg", b"x"), ("./b.jpg", b"2"), ("_e.jpg", b"3")))
    assert list(found.values()) == [b"1", b"2", b"3"] and counted(left_out) == {("hidden", ".jpg"): 4}


def test_hidden_folders_and_leftovers_are_no_input_but_partitions_are(tmp_path):
    root = folder_of(tmp_path, "part-0.parquet", "_temporary/0/part-0.parquet", ".x/b.parquet",
                     "_delta_log/0.checkpoint.parquet",
                     "._part-0.parquet", "_part.parquet", "dt=2026-11-24/_x=1/c.parquet", "@eaDir/d.parquet")
    found, left_out, _ = find_shards(root)
    assert found["path"].to_pylist() == ["dt=2026-11-24/_x=1/c.parquet", "part-0.parquet"]
    assert counted(left_out) == {("hidden", ".parquet"): 6}


def test_images_may_begin_with_a_line_but_not_with_a_dot(tmp_path):
    found, left_out, _ = find_shards(folder_of(tmp_path, "_DSC1.jpg", "._DSC1.jpg", ".thumbs/a.jpg", "__MACOSX/a.jpg",
                                            "b.jpg"))
    assert [member["path"] for row in found.to_pylist() for member in row["members"]] == ["_DSC1.jpg", "b.jpg"]
    assert left_out.total("hidden") == 3
    one = find_shards(str(tmp_path / "in" / "._DSC1.jpg")).shards  # named by the user
    assert len(one) == 1


def test_the_kind_that_is_not_read_is_told(tmp_path):
    root = folder_of(tmp_path, "a.tar", "b.jpg", "c/d.png", "e.parquet", "notes.md", "a.json")
    found, left_out, _ = find_shards(root)
    assert found["path"].to_pylist() == ["a.tar"]
    assert counted(left_out) == {("other_kind", ".jpg"): 1, ("other_kind", ".png"): 1, ("other_kind", ".parquet"): 1,
                                 ("other_name", ".md"): 1}
    found, left_out, _ = find_shards(root, "images")
    assert counted(left_out) == {("other_kind", ".tar"): 1, ("other_kind", ".parquet"): 1, ("other_name", ".md"): 1,
                                 ("other_name", ".json"): 1}


def test_files_beside_an_image_belong_to_it(tmp_path):
    _, left_out, _ = find_shards(folder_of(tmp_path, "x/a.jpg", "x/a.json", "x/a.jpg.txt", "x/a.heic", "y/a.json"))
    assert counted(left_out) == {("other_name", ".heic"): 1, ("other_name", ".json"): 1}


def test_an_input_of_nothing_says_what_it_holds(tmp_path):
    config = Config(input=folder_of(tmp_path, "a.jfif", "b.jfif", "c"), output=str(tmp_path / "out"))
    with pytest.raises(
        UserError,
        match=r"holds no tar shards .*; 3 left out, no images by their names \(\.jfif 2, none 1\), such as a\.jfif\.$",
    ):
        check_found(config, find_shards(config.input))


def test_a_first_parquet_file_that_is_damaged_or_other_does_not_speak_for_all(tmp_path):
    root = folder_of(tmp_path, "a.parquet", "b.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "in" / "b.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: it is text that begins 'a.parquet', not a Parquet file\.$"):
        check_found(Config(input=root, output=str(tmp_path / "out")), find_shards(root))
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "in" / "c.parquet")
    check_found(Config(input=root, output=str(tmp_path / "out")), find_shards(root))


def test_an_output_keeps_to_the_kind_that_it_was_made_of(tmp_path):
    root = folder_of(tmp_path, "a.jpg")
    config = Config(input=root, output=str(tmp_path / "out"))
    of_images, of_tars = (
        pa.table({"path": ["images-first.parquet", "images-0123456789ab.parquet"]}),
        pa.table({"path": ["a.tar.parquet"]}),
    )
    check_kind(config, of_images, find_shards(root).shards)
    check_kind(config, of_images.slice(0, 0), find_shards(root).shards)
    with pytest.raises(UserError, match=r"has the tables of tar shards, and of --input .* loose images would be "
                                        "labelled now: give --format tar"):
        check_kind(config, of_tars, find_shards(root).shards)
    folder_of(tmp_path, "b.tar")
    with pytest.raises(UserError, match=r"has the tables of loose images, .* give --format images"):
        check_kind(config, of_images, find_shards(root).shards)
    check_kind(config, of_images, find_shards(root, "images").shards)


def test_links_pipes_and_odd_times_stop_nothing(tmp_path):
    root = folder_of(tmp_path, "a.jpg", "README.txt", "sub/b.jpg", "bad\udcff.jpg", "bad\udcfe.txt")
    os.utime(tmp_path / "in/README.txt", (0, 0))
    os.utime(tmp_path / "in/a.jpg", (-10, -10))
    (tmp_path / "in/.#notes.txt").symlink_to("nobody@nowhere.123")
    (tmp_path / "in/notes").symlink_to("absent")
    (tmp_path / "in/dead.jpg").symlink_to("absent")
    (tmp_path / "in/sub/up").symlink_to("..")
    os.mkfifo(tmp_path / "in/pipe.png")
    os.mkfifo(tmp_path / "in/pipe")
    found, left_out, _ = find_shards(root)
    inputs = Inputs(None, None, 100, None)
    rows = {}
    for row in found.to_pylist():
        with inputs.open(f"{root}/{row['path']}", row) as (samples, _):
            rows |= {sample.key: sample.error for sample in samples}
    assert rows == {"a.jpg": None, "sub/b.jpg": None, "bad\\xff.jpg": None, "dead.jpg": "not_a_file",
                    "pipe.png": "not_a_file"}
    assert counted(left_out) == {("other_name", ".txt"): 2, ("hidden", ".txt"): 1, ("not_a_file", "none"): 2,
                                 ("loop", "none"): 1}


def test_a_pipe_among_shards_is_a_failure_and_not_waited_for(tmp_path):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in/a.tar")
    with tarfile.open(tmp_path / "in/b\udcff.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x.jpg"))
    found = find_shards(str(tmp_path / "in")).shards["path"].to_pylist()
    assert found == ["a.tar", "b\\xff.tar"]
    inputs = Inputs(None, None, 100, None)
    with pytest.raises(FileNotFoundError, match="not a file but a pipe"), inputs.open(f"{tmp_path}/in/a.tar"):
        pass
    with inputs.open(f"{tmp_path}/in/{found[1]}") as (samples, _):
        assert [sample.key for sample in samples] == ["x"]
