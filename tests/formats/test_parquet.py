"""Parquet files of images: the columns, the keys, and what cannot be read."""

import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.formats.parquet import ParquetShard, read_keys, read_rows
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.find import check_found, find_shards
from pipeline.inputs.read import Inputs
from pipeline.store.retry import Replaced
from tests.support.jobs import SEED, digest, job, labels_folder

IMAGES = [b"A" * 3000, None, b"", b"B" * 7]
STRUCT = pa.array([{"bytes": image, "path": f"p{number}.jpg"} for number, image in enumerate(IMAGES)],
                  pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def parquet(**columns: pa.Array) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=3)
    return file.getvalue()


def read(data: bytes, image: str | None = None, key: str | None = None, max_bytes: int = 5000,
         most: int | None = None) -> list[tuple[int, str, bytes, str | None]]:
    return [(sample.index, sample.key, sample.encoded, sample.error)
            for sample in read_rows(ParquetShard(io.BytesIO(data)), image, key, max_bytes, most)]


def test_bytes_with_a_key_or_without():
    images = pa.array(IMAGES, pa.binary())
    assert read(parquet(image=images, key=pa.array(["k0", "k1", "k2", "k3"]))) == [
        (0, "k0", IMAGES[0], None), (1, "k1", b"", "empty"), (2, "k2", b"", None), (3, "k3", IMAGES[3], None)]
    assert [row[1] for row in read(parquet(picture=images.cast(pa.large_binary()),
                                           size=pa.array([1] * 4)))] == list("0123")
    assert [row[1] for row in read(parquet(a=images, b=images, id=pa.array([9, 8, 7, 6])), "b", "id")] == list("9876")


def test_hugging_faces_struct():
    rows = read(parquet(image=STRUCT, label=pa.array([1, 2, 3, 4])))
    assert [row[1] for row in rows] == ["p0.jpg", "p1.jpg", "p2.jpg", "p3.jpg"] and rows[0][2] == IMAGES[0]
    assert [row[3] for row in read(parquet(image=STRUCT), max_bytes=10)] == ["too_large", "empty", None, None]


@pytest.mark.parametrize(("data", "options", "says"), [
    (b"not parquet", {}, "not a Parquet file"), (parquet(image=STRUCT)[:-20], {}, "not a Parquet file"),
    (parquet(x=pa.array([1])), {},
     "no columns hold bytes, or structs of bytes and path .x int64.; if the images are loose files"),
    (parquet(a=STRUCT, b=STRUCT), {}, "2 columns hold bytes"), (parquet(image=STRUCT), {"image": "y"}, "no column 'y'"),
    (parquet(image=STRUCT, x=pa.array([1] * 4)), {"image": "x"}, "column 'x' holds int64, not bytes of images"),
    (parquet(image=STRUCT), {"most": 3}, "more than 3 images")])
def test_what_cannot_be_read_is_said(data, options, says):
    with pytest.raises(ShardUnreadable, match=says):
        read(data, **options)


def test_a_damaged_page_is_noticed():
    data = bytearray(parquet(image=pa.array([os.urandom(2000) for _ in range(50)], pa.binary())))
    data[4:60] = bytes(56)
    with pytest.raises(ShardUnreadable):
        read(bytes(data))


def test_the_format_is_found_or_said(tmp_path):
    for name in ("b.parquet", "a.tar", "dt=1/c.parquet", "readme.md", "x.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(parquet(x=pa.array([1])) if name.endswith("parquet") else b"")
    for format, names in (("auto", ["a.tar"]), ("tar", ["a.tar"]), ("parquet", ["b.parquet", "dt=1/c.parquet"]),
                          ("images", ["images-first"])):
        assert find_shards(str(tmp_path), format).shards["path"].to_pylist() == names
    config = Config(input=str(tmp_path), output="o", format="parquet")
    with pytest.raises(UserError, match=r"b\.parquet: no columns hold bytes"):
        check_found(config, find_shards(str(tmp_path), "parquet"))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"holds no tar shards .* no .parquet files and no images"):
        check_found(config, find_shards(str(tmp_path / "none")))


@pytest.mark.s3
def test_over_s3_with_faults_and_replaced(proxy, s3):
    data = parquet(image=pa.array([os.urandom(50_000) for _ in range(200)], pa.binary()))
    s3[1].pipe_file("photos/faults/a.parquet", data)
    proxy.rate = 0.3
    with Inputs(None, None, 10**6, None).open("s3://photos/faults/a.parquet") as (samples, version):
        assert version.size == len(data)
        assert [sample.encoded for sample in samples] == [row[2] for row in read(data, max_bytes=10**6)]
    assert proxy.counts.total() > 0
    with pytest.raises(Replaced), Inputs(None, None, 10**6, None).open("s3://photos/faults/a.parquet") as (samples, _):
        next(samples)
        s3[1].pipe_file("photos/faults/a.parquet", data[::-1])
        list(samples)


@pytest.mark.slow
def test_the_job_labels_a_parquet_file_as_it_does_a_tar(undisturbed, few_photographs, tmp_path):
    (tmp_path / "in").mkdir()
    images = pa.array([{"bytes": data, "path": name} for name, data in few_photographs], STRUCT.type)
    (tmp_path / "in/photos.parquet").write_bytes(parquet(image=images, label=pa.array(range(len(images)))))
    options = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    done = job("label", *options, *SEED, "--batch-size", 4)
    assert done.returncode == 0 and "1 labelled" in done.stdout, done.stdout + done.stderr
    digest(tmp_path / "in", tmp_path / "out")
    ours, theirs = (pq.read_table(labels_folder(folder) / name, partitioning=None).to_pylist()
                    for folder, name in ((tmp_path / "out", "photos.parquet.parquet"), (undisturbed, "a.tar.parquet")))
    same = ("sha256", "width", "height", "label_id", "error")
    assert [[row[name] for name in same] for row in ours] == [[row[name] for name in same] for row in theirs]
    assert [row["key"] for row in ours] == [name for name, _ in few_photographs]


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view(), pa.binary(3),
                                  pa.dictionary(pa.int32(), pa.binary())])
def test_every_type_of_bytes_holds_images(kind):
    values = pa.array([b"one", b"two", b"one"], pa.binary())
    column = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    assert [row[2] for row in read(parquet(image=column, label=pa.array([1, 2, 3])))] == [b"one", b"two", b"one"]


def test_keys_that_are_bytes_are_text():
    keys = pa.array([b"k0", "ü".encode(), b"\xff"])
    found = read(parquet(image=pa.array([b"1", b"2", b"3"]), key=keys), None, "key")
    assert [row[1] for row in found] == ["k0", "ü", "\\xff"]


def test_what_is_refused_names_its_type():
    with pytest.raises(ShardUnreadable, match=r"holds list<.*uint8>, not bytes of images"):
        read(parquet(image=pa.array([[1, 2]], pa.list_(pa.uint8()))), "image")


@pytest.mark.parametrize("column", [
    pa.array([{"bytes": b"x", "path": "cats/1.jpg"}, {"bytes": b"y", "path": None}]), pa.array([b"x", b"y"])])
def test_keys_and_truths_are_read_without_the_images(column):
    data = parquet(image=column, label=pa.array(["cat", None]))
    expected = [(row[1], truth) for row, truth in zip(read(data), ["cat", None], strict=True)]
    assert [(one.key, one.truth) for one in read_keys(ParquetShard(io.BytesIO(data)), None, None, "label")] == expected
    assert [one.key for one in read_keys(ParquetShard(io.BytesIO(data)), None, None)] == [key for key, _ in expected]


@pytest.mark.parametrize(("data", "says"), [
    (b"", "it is empty"),
    (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not the file itself"),
    (b"<html>no</html>", "it is an HTML page, not a Parquet file"),
    (b"PAR1 and no end", "not a Parquet file that can be read")])
def test_what_is_no_parquet_says_what_it_is(data, says):
    with pytest.raises(ShardUnreadable, match=f"^{says}"):
        read(data)
