"""Orientation: what `decode` makes of EXIF and XMP is what Pillow's `exif_transpose` makes of it, in every format."""

import io
import itertools
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.images.decode import decode_whole
from tests.support.pictures import CAT, run, save

TINY = CAT.resize((24, 16))
# The types of TIFF 6.0 and BigTIFF, and one that is none, as `struct` writes them; a fraction has 1 below.
TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I",
         16: "Q", 99: "I"}
JPEG, PNG = save(TINY, "JPEG", quality=95, subsampling=0), save(TINY, "PNG")
XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"


def entry(order: str, kind: int, count: int, value: int, at: int) -> tuple[bytes, bytes]:
    """An entry of a directory for the orientation, and what lies at `at` if it is too long for the entry."""
    data = struct.pack(order + TYPES[kind], *(value, 1)[: len(TYPES[kind])]) * count
    head = struct.pack(order + "HHI", 274, kind, count)
    return (head + data.ljust(4, b"\0"), b"") if len(data) <= 4 else (head + struct.pack(order + "I", at), data)


def block(order: str = ">", kind: int = 3, count: int = 1, value: int = 6) -> bytes:
    """EXIF of one entry, without its `Exif` header."""
    inline, outside = entry(order, kind, count, value, 26)
    return {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 1) + inline + bytes(4) + outside


def blocks() -> Iterator[bytes]:
    """Every order, type and count with every orientation and two that are none; and one cut everywhere."""
    for order, kind, count, value in itertools.product("<>", TYPES, (0, 1, 2), range(10)):
        yield block(order, kind, count, value)
    for order in "<>":
        whole = block(order, value=8)
        yield from (whole[:length] for length in range(len(whole)))
    yield from (b"garbage" * 9, b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"II+\0" + bytes(30))


def xmp(value: object, form: str = '="{}"') -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation{form.format(value)}/></x:xmpmeta>'.encode()


def segment(data: bytes, marker: int = 0xE1) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg(*segments: bytes) -> bytes:
    """With these behind its JFIF segment."""
    return JPEG[:20] + b"".join(segments) + JPEG[20:]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(before: bytes, after: bytes = b"") -> bytes:
    """With these chunks before its pixels, and behind them."""
    return PNG[:33] + before + PNG[33:-12] + after + PNG[-12:]


def raw_profile(exif: bytes) -> bytes:
    """As ImageMagick writes it."""
    exif = b"Exif\0\0" + exif
    return b"Raw profile type exif\0\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"


def packed(text: bytes) -> bytes:
    key, value = text.split(b"\0", 1)
    return key + b"\0\0" + zlib.compress(value)


def tiff(order: str, orientation: tuple[bytes, bytes] | None, *others: tuple[int, int, bytes]) -> bytes:
    """24 x 16 RGB in one strip; the data of the others (tag, type, value) lie behind the pixels."""
    pixels, at = TINY.tobytes(), 8 + 2 + 12 * (10 + len(others) + (orientation is not None)) + 4
    outside = struct.pack(order + "HHH", 8, 8, 8)
    entries = {tag: struct.pack(order + ("HHIHH" if kind == 3 else "HHII"), tag, kind, count, *value) for
               tag, kind, count, value in [
                   (256, 3, 1, (24, 0)), (257, 3, 1, (16, 0)), (258, 4, 3, (at,)), (259, 3, 1, (1, 0)),
                   (262, 3, 1, (2, 0)), (273, 4, 1, (at + 6,)), (277, 3, 1, (3, 0)), (278, 3, 1, (16, 0)),
                   (279, 4, 1, (len(pixels),)), (284, 3, 1, (1, 0))]}
    entries[258] = struct.pack(order + "HHII", 258, 3, 3, at)
    outside += pixels
    if orientation is not None:
        entries[274] = orientation[0][:8] + struct.pack(order + "I",
                                                        at + len(outside)) if orientation[1] else orientation[0]
        outside += orientation[1]
    for tag, kind, value in others:
        inline = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", at + len(outside))
        entries[tag] = struct.pack(order + "HHI", tag, kind, len(value) // struct.calcsize(TYPES[kind])) + inline
        outside += value if len(value) > 4 else b""
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    return head + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4) + outside


def gif(data: bytes) -> bytes:
    encoded = save(TINY, "GIF")
    at = 13 + 3 * 2 ** ((encoded[10] & 7) + 1)
    trailer = b"\x01" + bytes(range(255, -1, -1)) + b"\0"
    return encoded[:at] + b"!\xff\x0bXMP DataXMP" + data + trailer + encoded[at:]


def as_pillow(encoded: bytes) -> Image.Image:
    """Upright by Pillow, or as it is stored where Pillow fails at the EXIF."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(encoded))
        try:
            return ImageOps.exif_transpose(image).convert("RGB")
        except Exception:  # of a dozen kinds
            return TINY


def assert_as_pillow(encoded: bytes, also_the_slot: bool = False) -> Image.Image:
    expected = as_pillow(encoded)
    whole_HWC = decode_whole(encoded, max_pixels=10**6, max_bytes=10**7)
    assert whole_HWC is not None
    assert whole_HWC.shape == (expected.height, expected.width, 3)
    assert np.abs(whole_HWC.astype(int) - np.asarray(expected)).mean() < 3  # the JPEG's loss; another turn is over 20
    if also_the_slot:
        decoded, pixels_HWC = run(encoded)
        assert decoded == (24, 16, None)
        assert np.abs(pixels_HWC.astype(int) - run(save(expected, "PNG"))[1]).mean() < 2
    return expected


def test_every_exif_block_in_every_format() -> None:
    turned = 0
    for number, exif in enumerate(blocks()):
        for encoded in (jpeg(segment(b"Exif\0\0" + exif)), png(chunk(b"eXIf", exif)),
                        png(chunk(b"tEXt", raw_profile(exif))), save(TINY, "WEBP", lossless=True, exif=exif or b"\0")):
            turned += assert_as_pillow(encoded, number % 10 == 0).size == (16, 24)
    assert turned > 400


def test_every_orientation_tag_of_a_tiff() -> None:
    turned = 0
    for order, kind, count, value in itertools.product("<>", TYPES, (0, 1, 2), range(10)):
        encoded = tiff(order, entry(order, kind, count, value, 0))
        turned += assert_as_pillow(encoded, value == 6).size == (16, 24)
    assert turned > 50


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("order", "<>")
def test_every_place(order: str, value: int) -> None:
    exif = block(order, value=value)
    app1, other = segment(b"Exif\0\0" + exif), segment(b"Exif\0\0" + block(order, value=3))
    element, attribute = xmp(value, ">{}</tiff:Orientation><x"), xmp(value)
    places = [
        JPEG[:2] + app1 + JPEG[2:], jpeg(b"\xff" * 5 + app1), jpeg(b"\xff", app1, b"\xff\xff"),
        JPEG[:2] + b"\xff" * 9 + JPEG[2:20]
        + app1 + JPEG[20:], jpeg(segment(b"something else"), app1), jpeg(segment(b"\xff\xda\xff\xd9", 0xFE), app1),
        jpeg(app1, other), jpeg(other, app1), jpeg(segment(b"Exif\0\0" + exif[:17]), segment(b"Exif\0\0" + exif[17:])),
        jpeg(segment(XMP_HEAD + attribute)), jpeg(segment(XMP_HEAD + element)),
        jpeg(b"\xff", segment(XMP_HEAD + element)),
        jpeg(segment(XMP_HEAD + xmp(3)), segment(XMP_HEAD + attribute)), jpeg(app1, segment(XMP_HEAD + xmp(3))),
        jpeg(segment(b"Exif\0\0broken"), segment(XMP_HEAD + attribute)), jpeg(b"junk", app1),
        save(TINY.convert("CMYK"), "JPEG", quality=95, exif=b"Exif\0\0" + exif),
        save(TINY, "JPEG", quality=95, exif=b"Exif\0\0" + exif, progressive=True),
        save(TINY, "MPO", exif=b"Exif\0\0" + exif),
        png(chunk(b"eXIf", exif)), png(b"", chunk(b"eXIf", exif)), png(chunk(b"eXIf", b"Exif\0\0" + exif)),
        png(chunk(b"zTXt", packed(raw_profile(exif)))), png(b"", chunk(b"tEXt", raw_profile(exif))),
        png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + attribute)),
        png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(element))),
        png(b"", chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + element)),
        png(chunk(b"tEXt", b"XML:com.adobe.xmp\0" + attribute)), png(chunk(b"tEXt", b"exif\0" + exif)),
        save(TINY, "WEBP", lossless=True, exif=exif), save(TINY, "WEBP", lossless=True, exif=b"Exif\0\0" + exif),
        save(TINY, "WEBP", lossless=True, xmp=attribute), save(TINY, "WEBP", quality=100, xmp=element),
        tiff(order, entry(order, 3, 1, value, 0)), tiff(order, None, (700, 1, attribute)),
        tiff(order, None, (700, 7, element)),
        tiff(order, entry(order, 3, 1, value, 0), (700, 1, xmp(3))),
        tiff(order, entry(order, 3, 1, value, 0), (34665, 4, struct.pack(order + "I", 2**32 - 1))),
        save(TINY, "TIFF", exif=_exif(value), save_all=True, append_images=[TINY.rotate(90, expand=True)]),
        save(TINY, "TIFF", exif=_exif(value % 8 + 1), compression="tiff_lzw"),
        save(TINY, "TIFF", exif=_exif(value), big_tiff=True),
        gif(attribute)]
    for encoded in places:
        assert_as_pillow(encoded, True)


def _exif(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


@pytest.mark.parametrize("encoded", [
    tiff("<", None, (700, 2, xmp(6))), tiff("<", None, (700, 4, xmp(6).ljust(80)[:80])),  # text, numbers
    tiff("<", entry("<", 3, 1, 1, 0), (34665, 9, struct.pack("<i", -5))),
    jpeg(segment(b"Exif\0\0" + b"II+\0" + b"\xff" * 9)),
    png(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 9\nnot hex\n")), png(chunk(b"tEXt", b"xmp\0" + xmp(6))),
    png(chunk(b"zTXt", packed(b"exif\0" + block()))), png(chunk(b"eXIf", b"")), png(chunk(b"zTXt", b"exif\0\7broken"))])
def test_what_breaks_pillow_is_upright(encoded: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).size == (24, 16)
        except Exception as error:  # of a dozen kinds
            assert not isinstance(error, AssertionError)
    decoded, pixels_HWC = run(encoded)
    assert decoded == (24, 16, None)
    assert np.abs(pixels_HWC.astype(int) - run(PNG)[1]).mean() < 3


def test_many_exif_segments_take_no_time() -> None:
    """Pillow adds one to the other, a copy of all each time: 100 of 64 KB."""
    part = segment(b"Exif\0\0" + block(value=6).ljust(65_000, b"\0"))
    for encoded in (jpeg(part * 100), jpeg(b"\xff" * 2**22, part)):
        assert run(encoded)[0] == (24, 16, None)
        whole_HWC = decode_whole(encoded, max_pixels=10**6, max_bytes=10**7)
        assert whole_HWC is not None and whole_HWC.shape == (24, 16, 3)
