"""Headers of old and odd tars: names are right, and where a tar is not whole the message says where."""

import shutil
import subprocess

import pytest

from pipeline.formats.samples import ShardUnreadable
from tests.formats.test_tar import PHOTOS, read
from tests.support.tars import END, GNU, POSIX, V7, header, make_tar, member, signed

TIMES = b"15302124531\0" b"15302124500\0"  # of last access and of change, where POSIX has the prefix


def names(data: bytes) -> list[str]:
    return [key for _, key, _, _ in read(data)]


@pytest.mark.parametrize("times", [TIMES, b"15302124531 15302124500 ", b"\x80" + bytes(7) + b"\x12345" + b"\xff" * 12,
                                   TIMES + b"00000001000\0" + b"0000" + bytes(97) + b"00000000009\0"])
def test_times_of_gnu_are_no_part_of_the_name(times):
    data = member(b"dir/a.jpg", b"A", b"0", GNU, times) + member(b"b.jpg", b"B", b"\0", GNU, times) + END
    assert read(data) == [(0, "dir/a", b"A", None), (1, "b", b"B", None)]


@pytest.mark.parametrize("kind", [b"D", b"M", b"V", b"5", b"N", b"7"])
def test_times_in_headers_of_other_kinds(kind):
    """The label of a volume, the list of a folder and others are passed over without harm to their neighbours."""
    size = 0 if kind in b"V5" else 700
    data = header(b"folder/", size, kind, GNU,
                  TIMES) + bytes(-(-size // 512) * 512) + member(b"b.jpg", b"B", b"0", GNU, TIMES) + END
    assert names(data) == ["b"]


def test_long_names_before_headers_with_times():
    data = member(b"././@LongLink", b"n" * 300 + b".jpg\0", b"L", GNU) + member(b"n" * 100, b"A", b"0", GNU, TIMES)
    assert read(data + END) == [(0, "n" * 300, b"A", None)]


def test_a_prefix_is_read_where_posix_has_it():
    early_go = b"folder/of/early/go".ljust(155, b"\0")
    data = (member(b"a.jpg", b"A", b"0", POSIX, b"x" * 154 + b"\0") + member(b"b.jpg", b"B", b"0", V7, b"left over")
            + member(b"c.jpg", b"C", b"0", GNU, early_go) + END)
    assert names(data) == ["x" * 154 + "/a", "b", "folder/of/early/go/c"]


def test_sizes_in_base_256():
    size = b"\x80" + (5).to_bytes(11, "big")
    assert read(header(b"a.jpg", 0, size_field=size) + b"AAAAA".ljust(512, b"\0") + END) == [(0, "a", b"AAAAA", None)]
    with pytest.raises(ShardUnreadable, match=r"no valid tar header at byte 1,024 .a negative size"):
        read(member(b"a.jpg", b"A") + header(b"b.jpg", 0, size_field=b"\xff" * 12) + END)
    with pytest.raises(ShardUnreadable, match=r"no valid tar header at byte 0 .a negative size"):
        read(header(b"long", 0, b"L", GNU, size_field=b"\xff" + b"\0" * 11) + END)
    with pytest.raises(ShardUnreadable, match=r"it ends inside 'b.jpg', at byte 2,560"):
        read(member(b"a.jpg", b"A") + header(b"b.jpg", 0, size_field=b"\x80" + b"\0\0\0\x7f" * 2 + bytes(3)) + END)


RECORDS = {
    "a size that is negative": b"15 size=-10000\n",
    "a size that is no number": b"13 size=wide\n",
    "a map that is no map": b"25 GNU.sparse.map=0,1,x,y\n22 GNU.sparse.size=10\n",
    "a sparse file without its map": b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n27 GNU.sparse.realsize=9\n",
}


@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_records_of_pax_that_are_damaged(records):
    with_records = member(b"pax", records, b"x") + member(b"a.jpg", b"A" * 20)
    try:
        assert read(with_records + END) == [(0, "a", b"A" * 20, None)]  # what is no number counts as 0 or not at all
    except ShardUnreadable as error:
        assert "header" in str(error) or "ends inside" in str(error)


def test_a_thousand_headers_in_a_row():
    with pytest.raises(ShardUnreadable, match="no valid tar header"):
        read(member(b"pax", b"6 a=b\n", b"x") * 3000 + member(b"a.jpg", b"A") + END)


def test_headers_together_are_not_larger_than_one_may_be():
    with pytest.raises(ShardUnreadable, match="a header of"):
        read(member(b"long", b"n" * 2**23, b"L", GNU) * 3 + member(b"a.jpg", b"A") + END)


def test_a_sparse_file_that_is_cut_in_its_map():
    sparse = bytearray(header(b"a.jpg", 512, b"S", GNU))
    sparse[482:483] = b"\1"  # the map goes on in the next block
    with pytest.raises(ShardUnreadable, match="it ends inside a header, at byte 512"):
        read(signed(sparse))
    with pytest.raises(ShardUnreadable, match="it ends inside a header, at byte 800"):
        read(signed(sparse) + bytes(288))


def test_a_sparse_file_that_holds_less_than_its_map_says():
    sparse = bytearray(header(b"a.jpg", 512, b"S", GNU))
    sparse[386:410] = b"%011o\0%011o\0" % (0, 1000)
    sparse[483:495] = b"%011o\0" % 1000
    with pytest.raises(ShardUnreadable, match=r"it has a sparse file 'a.jpg' with a damaged map"):
        read(signed(sparse) + b"A" * 512 + member(b"b.jpg", b"B") + END)


@pytest.mark.parametrize("options", [["--format=v7"], ["--format=oldgnu"], ["--format=gnu"], ["--format=ustar"],
                                     ["--format=posix"],
                                     *(["--format=posix", "-S", f"--sparse-version={one}"]
                                       for one in ("0.0", "0.1", "1.0")),
                                     ["--format=gnu", "-S"], ["--format=gnu", "-S", "-G"],
                                     ["--format=oldgnu", "-G", "-V", "label"]])
def test_as_gnu_tar_wrote_it(options, tmp_path):
    version = subprocess.run(["tar", "--version"], capture_output=True,
                             check=False).stdout if shutil.which("tar") else b""
    if b"GNU" not in version:
        pytest.skip("no GNU tar(1)")
    (tmp_path / "d").mkdir()
    for name, content in (("a", b"A" * 700), ("n" * 80, b""), ("holes", b"x" + bytes(300_000) + b"y" + bytes(70_000))):
        with (tmp_path / "d" / f"{name}.jpg").open("wb") as file:
            for at in range(0, len(content), 4096):
                piece = content[at:at + 4096]
                file.write(piece) if piece.strip(b"\0") else file.seek(at + len(piece))
            file.truncate(len(content))
    data = subprocess.run(["tar", *options, "-cf", "-", "d"], cwd=tmp_path, capture_output=True, check=True).stdout
    expected = {path.stem: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    assert {key: encoded for _, key, encoded, _ in read(data)} == {f"d/{name}": content
                                                                   for name, content in expected.items()}


LONG = make_tar(("n" * 5000 + "\n.jpg", b"Z" * 900))
WHERE = {
    "no end mark": (PHOTOS[:12 * 512], r"it has no end mark \(at byte 6,144\): it was not closed, or it was cut"),
    "inside a header": (PHOTOS[:3584 + 200], "it ends inside a header, at byte 3,784: it was cut"),
    "inside an image": (PHOTOS[:3000], "it ends inside 'x/a.jpg', at byte 3,000: it was cut"),
    "inside a member that is passed over": (make_tar(("film.mp4", bytes(9000)))[:5000],
                                            "it ends inside 'film.mp4', at byte 5,000"),
    "at the last byte of one": (make_tar(("film.mp4", bytes(9000)))[:512 + 9215],
                                "it ends inside 'film.mp4', at byte 9,727"),
    "inside a long name": (make_tar(("n" * 300 + ".jpg", b"1"))[:900], "it ends inside a header, at byte 900"),
    "a damaged header": (PHOTOS[:3600] + b"\xff" + PHOTOS[3601:],
                         r"it has no valid tar header at byte 3,584 \(bad checksum\)"),
    "joined": (PHOTOS + PHOTOS, "data follows its end mark, at byte 10,240"),
    "a name of many characters": (LONG[:LONG.index(b"Z" * 900) + 100], r"it ends inside 'n{100}…', at byte"),
}


@pytest.mark.parametrize(("data", "says"), WHERE.values(), ids=WHERE)
def test_the_message_says_where(data, says):
    with pytest.raises(ShardUnreadable, match=says) as raised:
        read(data)
    assert "Error" not in str(raised.value) and "\n" not in str(raised.value)
