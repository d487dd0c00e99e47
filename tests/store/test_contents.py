"""What is no tar is told by what it is, in one sentence."""

import bz2
import gzip
import io
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.formats.samples import ShardUnreadable
from pipeline.store.contents import name_contents
from tests.formats.test_tar import PHOTOS, read
from tests.support.tars import sized_frame, skippable


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, kind)
    return file.getvalue()


def parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), sink)
    return bytes(sink.getvalue())


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
TOLD = {
    LFS: "it is a Git LFS pointer, not the file itself (git lfs pull fetches it)",
    b"/annex/objects/SHA256E-s1--0.tar\n": "it is a git-annex pointer, not the file itself (git annex get fetches it)",
    b"\r\n<!DOCTYPE html>\n<html><body>404</body></html>" * 30: "it is an HTML page, not a tar",
    b"<HTML><HEAD>": "it is an HTML page, not a tar",
    b'\xef\xbb\xbf<?xml version="1.0"?>\n<Error><Code>NoSuchKey</Code></Error>':
        "it is an XML error document (NoSuchKey), not a tar",
    b"<?xml version='1.0'?><svg/>": "it is an XML document, not a tar",
    b"PK\3\4" + bytes(900): "it is a zip archive, not a tar",
    b"7z\xbc\xaf\x27\x1c" + bytes(900): "it is a 7z archive, not a tar",
    b"Rar!\x1a\x07\x01\0" + bytes(900): "it is a rar archive, not a tar",
    b"\x04\x22\x4d\x18" + bytes(900): "it is lz4 data, not a tar",
    parquet(): "it is a Parquet file, not a tar",
    picture("JPEG"): "it is a JPEG image, not a tar",
    picture("PNG"): "it is a PNG image, not a tar",
    picture("WEBP"): "it is a WebP image, not a tar",
    picture("BMP"): "it is a BMP image, not a tar",
    "url,label\ncafé".encode()[:-1]: "it is text that begins 'url,label', not a tar",
    b"": "it is empty (0 bytes)",
    b"\0\1\2": "it is no tar: 3 bytes are less than a header",
    bytes(range(256)) * 9: "it is no tar, or damaged: no valid tar header at byte 0",
    gzip.compress(b""): "its gzip data is empty (0 bytes)",
    sized_frame(b""): "its zstd data is empty (0 bytes)",
    skippable(b"only"): "its zstd data is empty (0 bytes)",
    gzip.compress(picture("JPEG")): "its gzip data is a JPEG image, not a tar",
    lzma.compress(b"url,label\na,b\n"): "its xz data is text that begins 'url,label', not a tar",
    gzip.compress(gzip.compress(PHOTOS)): "it is compressed twice (gzip inside gzip); unpack it once",
    sized_frame(bz2.compress(PHOTOS)): "it is compressed twice (bzip2 inside zstd); unpack it once",
}


@pytest.mark.parametrize(("data", "says"), TOLD.items(), ids=[says.replace("/", " ") for says in TOLD.values()])
def test_what_it_is(data, says):
    with pytest.raises(ShardUnreadable) as raised:
        read(data)
    assert str(raised.value) == says


def test_a_tar_under_a_wrong_name_is_read():
    assert read(gzip.compress(PHOTOS)) == read(PHOTOS) == read(sized_frame(PHOTOS))


def test_bytes_that_tell_nothing():
    assert [name_contents(head) for head in (b"\x93\x02\x81" * 9, b"", b"ab\0cd")] == [None] * 3
