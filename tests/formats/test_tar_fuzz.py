"""Hundreds of random tars: whole ones are read, cut ones never end in silence, and only ShardUnreadable is raised."""

import io
import random
import tarfile
import time

import pytest

from pipeline.formats.samples import ShardUnreadable
from tests.formats.test_tar import read
from tests.support.tars import END, GNU, PACKINGS, V7, member, signed, skippable

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "oldgnu": GNU, "v7": V7}
ODD = ["ü", "ключ", "it's", "100%", "a b", "\n", "\\", "<x>", "k" * 90, "\udce9", "#"]
Row = tuple[int, str, bytes, str | None]


def tar_by_chance(chance: random.Random) -> tuple[bytes, list[Row]]:
    """A tar without its end mark, and its samples."""
    kind = chance.choice([*FORMATS])
    by_hand = kind in ("oldgnu", "v7")
    buffer, rows, written = io.BytesIO(), [], b""
    tar = tarfile.TarFile(fileobj=buffer, mode="w", format=FORMATS["gnu" if by_hand else kind],
                          errors="surrogateescape")
    for number in range(chance.randrange(7)):
        folders = [chance.choice([*ODD, "v1.2"])
                   for _ in range(chance.randrange(2 if kind in ("ustar", "oldgnu", "v7") else 6))]
        if by_hand or kind == "ustar":
            folders = [folder for folder in folders if len(folder) < 50]
        key = "/".join([*folders, f"{number}{chance.choice(ODD[:8])}"])
        content = chance.randbytes(chance.choice([0, 1, 511, 512, 513, chance.randrange(9000)]))
        odd_member(chance, tar, number)
        name = f"{key}.{chance.choice(['jpg', 'PNG', 'seg.jpeg'])}"
        if by_hand:
            written, buffer = written + buffer.getvalue(), io.BytesIO()
            tar.fileobj = buffer
            times = b"%011o\0%011o\0" % (chance.randrange(8**11), chance.randrange(8**11)) if kind == "oldgnu" else b""
            written += member(name.encode("utf-8", "surrogateescape"), content, chance.choice([b"0", b"\0"]),
                              FORMATS[kind], times)
        else:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), chance.choice([0, 1.5, 2**33]) if kind != "ustar" else 0
            tar.addfile(info, io.BytesIO(content))
        rows.append((number, key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), content, None))
    return written + buffer.getvalue(), rows


def odd_member(chance: random.Random, tar: tarfile.TarFile, number: int) -> None:
    """Perhaps a member that is no image: a link, a folder, some text."""
    info = tarfile.TarInfo(f"other{number}/file.txt")
    info.type = chance.choice([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
    info.linkname = "0.jpg" if info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    info.size = chance.randrange(2000) if info.isreg() else 0
    if chance.randrange(2):
        tar.addfile(info, io.BytesIO(bytes(info.size)))


def packed_by_chance(chance: random.Random, data: bytes, needed: int) -> tuple[bytes, int]:
    """The tar, packed; and how many bytes of it hold the first `needed` ones of the tar."""
    packing = chance.choice([None, *PACKINGS])
    if packing is None:
        return data, needed
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
    packed, enough = b"", 0
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if packing == "zstd" and chance.randrange(2):
            packed += skippable(chance.randbytes(chance.randrange(99)), chance.randrange(16))
        if packing == "xz" and start:
            packed += bytes(4 * chance.randrange(4))
        packed += chance.choice(PACKINGS[packing])(data[start:stop])
        if stop >= needed and not enough:
            enough = len(packed)
    packed += {"gzip": chance.choice([b"", bytes(700), b"garbage"]), "bzip2": chance.choice([b"", b"garbage"]),
               "xz": bytes(4 * chance.randrange(300)), "zstd": skippable(b"end") * chance.randrange(2)}[packing]
    return packed, enough


@pytest.mark.parametrize("seed", range(10))
def test_tars_by_chance(seed):
    chance, began = random.Random(seed), time.monotonic()
    for _ in range(80):
        body, rows = tar_by_chance(chance)
        data, enough = packed_by_chance(chance, body + END + bytes(512 * chance.randrange(20)), len(body) + 512)
        assert read(data) == rows
        for _ in range(8):
            end = chance.randrange(len(data))
            try:
                assert read(data[:end]) == rows and end >= enough, f"{end} of {len(data)} bytes end in silence"
            except ShardUnreadable as error:
                check_sentence(error)
        for _ in range(4):
            at = chance.randrange(len(data))
            try:
                read(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1:])
            except ShardUnreadable as error:
                check_sentence(error)
    assert time.monotonic() - began < 60  # no hang, on a busy machine too


@pytest.mark.parametrize("seed", range(5))
def test_headers_by_chance(seed):
    """Fields of headers changed to anything under a right sum."""
    chance = random.Random(seed)
    for _ in range(400):
        body, _ = tar_by_chance(chance)
        data = bytearray(body + END)
        for at in range(0, len(body), 512):
            if data[at + 257:at + 262] == b"ustar" and chance.randrange(3) == 0:
                start, stop = chance.choice([(0, 100), (124, 136), (156, 157), (156, 157), (157, 257), (257, 265),
                                             (345, 500), (482, 495)])
                block = data[at:at + 512]
                block[start:stop] = (chance.randbytes(stop - start) if chance.randrange(3) else
                                     chance.choice([b"\xff", b"7", b"0", b"S", b"x", b"L", b"g", b"K", b"X", b"D",
                                                    b"\x80"]) * (stop - start))
                data[at:at + 512] = signed(block)
        try:
            for _, key, _, _ in read(bytes(data)):
                key.encode()
        except ShardUnreadable as error:
            check_sentence(error)


def check_sentence(error: ShardUnreadable) -> None:
    told = str(error)
    assert (
        told
        and "\n" not in told
        and "Error" not in told
        and ".." not in told.partition("'")[0]
        and not told.endswith(".")
    ), told
    told.encode()
