"""Compressed tars: what the tools read in full is read the same, what they call an error fails the shard."""

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.formats.samples import ShardUnreadable
from pipeline.formats.tars.compression import Undecodable, detect_packing, unpack
from pipeline.formats.tars.read import read_samples
from pipeline.inputs.read import Inputs
from pipeline.store.stream import open_stream
from tests.formats.test_tar import PHOTOS, read
from tests.support.tars import PACKINGS, gzip_member, make_tar, raw_frame, sized_frame, skippable, streamed_frame

RANDOM = random.Random(0)
NOISE = RANDOM.randbytes(150_000) + bytes(300_000) + b"text " * 20_000  # more than a decoder takes at once
HALF = len(PHOTOS) // 2
TOOLS = {"gzip": "gzip", "bzip2": "bzip2", "xz": "xz", "zstd": "zstd"}


def parts(packing: str, *contents: bytes) -> list[bytes]:
    kinds = PACKINGS[packing]
    return [kinds[at % len(kinds)](content) for at, content in enumerate(contents)]


def unpack_all(data: bytes) -> bytes:
    packing = detect_packing(data[:512])
    assert packing is not None
    stream = unpack(io.BufferedReader(io.BytesIO(data[512:])), data[:512], packing)
    return b"".join(iter(lambda: stream.read(2**20), b""))


WHOLE = {  # each holds PHOTOS
    **{
        f"{packing}, a part of each kind {at}": kind(PHOTOS)
        for packing, kinds in PACKINGS.items()
        for at, kind in enumerate(kinds)
    },
    **{
        f"{packing}, several parts, some empty": b"".join(
            parts(packing, b"", PHOTOS[:700], b"", PHOTOS[700:HALF], PHOTOS[HALF:], b"")
        )
        for packing in PACKINGS
    },
    "gzip, zeros of a tape": gzip_member(PHOTOS) + bytes(10_000),
    "gzip, zeros between": gzip_member(PHOTOS[:HALF]) + bytes(10_000) + gzip_member(PHOTOS[HALF:]),
    "gzip, garbage": gzip_member(PHOTOS) + b"garbage",
    "gzip, zeros and garbage": gzip_member(PHOTOS) + bytes(70_000) + b"garbage",
    "gzip, blocks as of bgzip": b"".join(gzip_member(PHOTOS[at : at + 100], 4) for at in range(0, len(PHOTOS), 100))
    + gzip_member(b"", 4),
    "bzip2, garbage": bz2.compress(PHOTOS) + b"Bgarbage",
    "bzip2, zeros": bz2.compress(PHOTOS) + bytes(512),
    "bzip2, BZh0": bz2.compress(PHOTOS) + b"BZh0" + bytes(40),
    "xz, padding": lzma.compress(PHOTOS) + bytes(40_000),
    "xz, padding between": lzma.compress(PHOTOS[:HALF]) + bytes(8) + lzma.compress(PHOTOS[HALF:]),
    "zstd, frames to skip": skippable(b"first")
    + sized_frame(PHOTOS[:HALF])
    + skippable(bytes(100_000), 15)
    + raw_frame(PHOTOS[HALF:])
    + skippable(b"", 7),
    "zstd, only as pzstd": skippable(b"\1\2\3\4") + streamed_frame(PHOTOS),
    "zstd, largest window": raw_frame(PHOTOS, 27),
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_what_the_tools_read_is_read(data, tmp_path):
    assert read(data) == read(PHOTOS)
    (tmp_path / "a.tar").write_bytes(data)
    with Inputs(None, None, 2**20, 100).open(str(tmp_path / "a.tar")) as (samples, version):
        assert [sample.encoded for sample in samples] == [encoded for _, _, encoded, _ in read(PHOTOS)]
    assert version.size == len(data)


BROKEN = {
    "gzip, cut before its sum": (gzip_member(PHOTOS)[:-8], "gzip data ends too early, at byte"),
    "gzip, wrong sum": (
        gzip_member(PHOTOS)[:-8] + bytes(4) + gzip_member(PHOTOS)[-4:],
        r"damaged before byte .* \(incorrect data check\)",
    ),
    "gzip, wrong length": (gzip_member(PHOTOS)[:-1] + b"\1", r"damaged before byte .* \(incorrect length check\)"),
    "gzip, second member cut": (gzip_member(PHOTOS) + gzip_member(b"more")[:1], "ends too early"),
    "gzip, second member cut in its header": (gzip_member(PHOTOS) + gzip_member(b"more", 30)[:15], "ends too early"),
    "gzip, second member damaged": (gzip_member(PHOTOS) + b"\x1f\x8b\x07garbage", "damaged"),
    "gzip, wrong sum of a header": (gzip_member(PHOTOS, 30).replace(b"comment", b"Comment"), "header crc mismatch"),
    "bzip2, cut": (bz2.compress(PHOTOS)[:-1], "bzip2 data ends too early"),
    "bzip2, second stream damaged": (
        bz2.compress(PHOTOS) + bz2.compress(PHOTOS)[:40] + b"!" + bz2.compress(PHOTOS)[41:],
        "damaged",
    ),
    "bzip2, second stream cut": (bz2.compress(PHOTOS) + b"BZ", "ends too early"),
    "xz, cut": (lzma.compress(PHOTOS)[:-1], "xz data ends too early"),
    "xz, cut in its index": (lzma.compress(PHOTOS)[:-20], "xz data ends too early"),
    "xz, garbage": (lzma.compress(PHOTOS) + b"garbage.", "damaged|ends too early"),
    "xz, padding of five": (lzma.compress(PHOTOS) + bytes(5), "padding"),
    "xz, second stream damaged": (
        lzma.compress(PHOTOS) + lzma.compress(PHOTOS)[:50] + b"!" + lzma.compress(PHOTOS)[51:],
        "damaged",
    ),
    "zstd, cut": (sized_frame(PHOTOS)[:-1], "zstd data ends too early, at byte"),
    "zstd, second frame cut": (sized_frame(PHOTOS) + raw_frame(b"more")[:3], "ends too early"),
    "zstd, cut in a frame to skip": (sized_frame(PHOTOS) + skippable(b"more")[:9], "ends too early"),
    "zstd, garbage": (sized_frame(PHOTOS) + b"garbage", r"damaged before byte .* \(Unknown frame descriptor\)"),
    "zstd, window of 2 GiB": (raw_frame(PHOTOS, 31), "window is over 128 MiB"),
    "zstd, dictionary": (raw_frame(PHOTOS, dictionary=9), "needs the dictionary"),
}


@pytest.mark.parametrize(("data", "says"), BROKEN.values(), ids=BROKEN)
def test_what_the_tools_refuse_fails(data, says):
    with pytest.raises(ShardUnreadable, match=says) as raised:
        read(data)
    assert "Error" not in str(raised.value) and ".." not in str(raised.value)


def test_parts_that_end_where_a_read_ends():
    """Ends of parts at every place around the sizes in which the file is read: 512, 32 KiB, 64 KiB."""
    for size in (512, 2**15, 2**16, 2**16 + 512):
        for off in range(-12, 13):
            content = NOISE[:2 * size + off - len(raw_frame(NOISE[:size]))]
            assert unpack_all(raw_frame(content) + skippable(b"x") + raw_frame(NOISE)) == content + NOISE
            stored = gzip_member(NOISE[:size + off])
            assert unpack_all(stored + stored) == 2 * NOISE[:size + off]
            padded = gzip_member(b"1") + bytes(size + off) + gzip_member(NOISE)
            assert unpack_all(padded) == b"1" + NOISE


@pytest.mark.parametrize("tool", TOOLS)
def test_as_the_tool_does(tool):
    """The same bytes as the tool, and an error where the tool has one: for whole, cut and damaged files."""
    if not shutil.which(tool):
        pytest.skip(f"no {tool}(1)")
    chance = random.Random(tool)
    content = NOISE[149_000:152_000]
    for _ in range(60):
        data = b"".join(chance.choice(PACKINGS[tool])(content[:chance.randrange(len(content))])
                        for _ in range(chance.randint(1, 3)))
        data += chance.choice([b"", bytes(chance.randrange(16)), b"",
                               chance.randbytes(chance.randrange(2, 9))])  # of one byte gzip says 'unexpected end'
        where, how = chance.randrange(4, len(data)), chance.randrange(3)
        if how == 1:
            data = data[:where]
        elif how == 2:
            data = data[:where] + bytes([data[where] ^ 1 << chance.randrange(8)]) + data[where + 1:]
        done = subprocess.run([tool, "-dc"], input=data, capture_output=True, check=False)
        whole = done.returncode == 0 or (tool == "gzip" and done.returncode == 2)
        try:
            assert unpack_all(data) == done.stdout and whole, (done.stderr, data)
        except Undecodable as error:
            assert not whole, (error, done.stderr, data)


@pytest.mark.parametrize("options", [["-3"], ["-3", "--no-check"], ["--long=27"], ["--ultra", "-22"],
                                     ["-1", "-T2", "-B512K"]])
def test_zstd_of_the_tool(options):
    if not shutil.which("zstd"):
        pytest.skip("no zstd(1)")
    packed = subprocess.run(["zstd", "-qc", *options], input=2 * NOISE, capture_output=True, check=True).stdout
    assert unpack_all(packed) == 2 * NOISE
    if "--no-check" not in options:
        with pytest.raises(Undecodable, match="doesn't match checksum"):
            unpack_all(packed[:-1] + bytes([packed[-1] ^ 1]))


def test_a_plain_tar_whose_first_name_looks_compressed():
    assert read(make_tar(("BZh91AY&SY.jpg", b"1"))) == [(0, "BZh91AY&SY", b"1", None)]


def test_the_file_stays_open_and_its_own_errors_pass():
    for pack in (bytes, gzip.compress, sized_frame, lzma.compress):
        data = pack(make_tar(("a.jpg", RANDOM.randbytes(2**18))))
        file = Failing(data)
        with pytest.raises(ConnectionError, match="gone"):
            list(read_samples(file, 2**20))
        assert not file.closed


class Failing(io.BytesIO):
    """A file of a store that stops answering."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > 2**16:
            raise ConnectionError("the store is gone")
        return super().read(size)


@pytest.mark.s3
def test_compressed_tars_of_a_store(s3, monkeypatch):
    environ, fs = s3
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for at, data in enumerate(WHOLE.values()):
        fs.pipe_file(f"photos/packed/{at}.tar.x", data)
        with open_stream(f"s3://photos/packed/{at}.tar.x") as (file, _):
            assert [sample.encoded
                    for sample in read_samples(file, 2**20)] == [encoded for _, _, encoded, _ in read(PHOTOS)]


def test_many_empty_members_take_little_time():
    assert unpack_all(gzip_member(b"") * 40_000 + gzip_member(b"end")) == b"end"
    assert unpack_all(pa.compress(b"", "zstd", asbytes=True) * 40_000 + raw_frame(b"end")) == b"end"


def test_a_damaged_frame_costs_no_address_space():
    """pyarrow allocates what it is asked for, and kept it after an error: after 30 damaged shards no fork worked."""

    def address_space() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    data = PACKINGS["zstd"][0](NOISE[:3000])[:-50]
    before = address_space()
    for _ in range(20):
        stream = unpack(io.BytesIO(data[512:]), data[:512], "zstd")
        with pytest.raises(Undecodable):
            while stream.read(2**28):
                pass
    assert address_space() - before < 2**29
