"""The tar reader: WebDataset's keys, every packing, and no tar that ends in silence."""

import bz2
import gzip
import io
import lzma
import tarfile

import pyarrow as pa
import pytest

from pipeline.formats.samples import ShardUnreadable
from pipeline.formats.tars.read import SHARD_NAME, read_samples
from tests.support.tars import make_tar


def read(data: bytes, max_bytes: int = 2**20) -> list[tuple[int, str, bytes, str | None]]:
    return [(s.index, s.key, s.encoded, s.error) for s in read_samples(io.BytesIO(data), max_bytes)]


PHOTOS = make_tar(("x/a.jpg", b"A" * 3000), ("x/a.txt", b"n1"), ("b.JPEG", b"B" * 700), ("c.json", b"{}"))


def test_one_sample_for_each_key_with_an_image():
    assert read(PHOTOS) == [(0, "x/a", b"A" * 3000, None), (1, "b", b"B" * 700, None)]


def test_the_first_image_of_a_key_counts():
    data = make_tar(("a.seg.png", b"1"), ("a.jpg", b"2"), ("v1.2/b.c.webp", b"3"), (".hidden.jpg", b"4"))
    assert [(key, encoded) for _, key, encoded, _ in read(data)] == [("a", b"1"), ("v1.2/b", b"3")]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress,
                                  lambda data: pa.compress(data, "zstd", asbytes=True)])
def test_compressed_tars(pack):
    assert read(pack(PHOTOS)) == read(PHOTOS)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_every_cut_is_noticed(pack):
    data = pack(PHOTOS)
    last = 7 * 512 + 3072 if pack is bytes else len(data) - 1  # a plain tar may lose some of its zeros, not all
    for end in {0, 1, 511, 512, 513, 2000, 4096, 4608, 5000, last - 512, len(data) // 2} & set(range(last)):
        with pytest.raises(ShardUnreadable):
            read(data[:end])


def test_a_damaged_header_is_not_an_end():
    data = bytearray(PHOTOS)
    data[512 + 3072 + 10] ^= 0xFF  # the second member's name: its checksum no longer holds
    with pytest.raises(ShardUnreadable, match="no valid tar header at byte 3,584"):
        read(bytes(data))


def test_tars_joined_with_cat_are_refused():
    with pytest.raises(ShardUnreadable, match="follows its end mark"):
        read(PHOTOS + PHOTOS)


def test_not_a_tar():
    with pytest.raises(ShardUnreadable):
        read(b"<html>404</html>" * 100)


def test_an_image_over_the_limit_keeps_its_place():
    assert read(PHOTOS, max_bytes=1000) == [(0, "x/a", b"", "too_large"), (1, "b", b"B" * 700, None)]


def test_a_link_is_a_rejected_sample():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert read(buffer.getvalue()) == [(0, "a", b"", "not_a_file")]


def test_an_odd_name_is_still_text():
    (_, key, _, _), = read(make_tar(("caf\udce9'\n%.jpg", b"1")))
    assert key == "caf\\xe9'\n%"
    key.encode("utf-8")


def test_shard_names():
    assert all(SHARD_NAME.search(name) for name in ("a.tar", "A.TAR.GZ", "a.tgz", "a.tar.zst", "a.tar.bz2"))
    assert not any(SHARD_NAME.search(name) for name in ("a.tar.parquet", "a.jpg", "tar", "a.gz"))
