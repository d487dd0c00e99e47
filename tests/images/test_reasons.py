"""The reason of a rejected image says what it is: of a kind that is not read, damaged, cut, or no image at all."""

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.images.test_exif import chunk
from tests.support.pictures import CAT, SMALL, png, run, save
from tests.support.pictures import tiff as plain_tiff

JPEG, PNG = save(SMALL, "JPEG"), save(SMALL, "PNG")
FRAME = JPEG.index(b"\xff\xc0")


def box(brand: bytes, *compatible: bytes) -> bytes:
    data = b"ftyp" + brand + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 4 + len(data)) + data + bytes(200)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", PNG)
    return file.getvalue()


KINDS = {
    "AVIF": box(b"avif", b"avif", b"mif1", b"miaf"), "AVIF that is HEIF first": box(b"mif1", b"mif1", b"avif"),
    "AVIF sequence": box(b"avis", b"msf1"), "HEIC": box(b"heic", b"mif1", b"heic"), "HEIC of 10 bits": box(b"heix"),
    "HEIC sequence": box(b"hevc"), "HEIF": box(b"mif1"), "CR3": box(b"crx ", b"crx ", b"isom"),
    "AVIF by Pillow": save(SMALL, "AVIF"), "JPEG 2000": save(SMALL, "JPEG2000"),
    "JPEG 2000 codestream": save(SMALL, "JPEG2000", no_jp2=True), "JPEG XL": b"\xff\x0a\xfa\x7f" + bytes(90),
    "JPEG XL in boxes": b"\0\0\0\x0cJXL \r\n\x87\n" + box(b"jxl "), "JPEG XR": b"II\xbc\1\x20\0\0\0" + bytes(90),
    "Photoshop": b"8BPS\0\1" + bytes(90), "icon": save(SMALL, "ICO"), "icon of macOS": save(SMALL, "ICNS"),
    "cursor": b"\0\0\2\0\1\0\x20\x20\0\0\1\0\1\0" + bytes(90),
    "SVG": b'<?xml version="1.0"?>\n<!-- a > b -->\n<svg width="9">',
    "SVG alone": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "EPS": save(SMALL, "EPS"), "PPM": save(SMALL, "PPM"),
    "PGM in text": b"P2\n# a comment\n3 2\n255\n0 1 2 3 4 5", "PCX": save(SMALL, "PCX"), "SGI": save(SMALL, "SGI"),
    "DDS": save(SMALL, "DDS"), "QOI": save(SMALL, "QOI"), "OpenEXR": b"v/1\1\2\0\0\0" + bytes(90),
    "HDR": b"#?RADIANCE\nFORMAT=",
    "DICOM": bytes(128) + b"DICM" + bytes(90), "FITS": b"SIMPLE  =                    T",
    "GIMP": b"gimp xcf v011\0" + bytes(90),
    "RW2": b"IIU\0\x18\0\0\0" + bytes(90), "ORF": b"IIRO\x08\0\0\0" + bytes(90),
    "RAF": b"FUJIFILMCCD-RAW 0201" + bytes(90),
    "MNG": b"\x8aMNG\r\n\x1a\n" + bytes(90), "PNG of iOS": PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:],
    "XPM": b"/* XPM */\nstatic char *a[] = {", "metafile": b"\xd7\xcd\xc6\x9a" + bytes(90),
}
NO_KINDS = {
    "text": b"P1 is what the plan says. " * 9, "letter": b"BM and I",
    "HTML": b"<!DOCTYPE html>\n<html><svg></svg></html>",
    "XML": b"<?xml version='1.0'?><rss></rss>", "zip": zipped(),
    "video": box(b"isom", b"isom", b"iso2", b"avc1", b"mp41"),
    "QuickTime": box(b"qt  ", b"qt  "), "sound": b"RIFF\0\1\0\0WAVEfmt " + bytes(90), "JSON": b'{"a": "<svg"}',
    "PDF": b"%PDF-1.7\n",
    "gzip": b"\x1f\x8b\x08\0" + bytes(90), "zeros": bytes(999), "MPEG": b"\0\0\1\xba" + bytes(90),
    "font": b"\0\1\0\0" + bytes(90),
    "program": b"\x7fELF" + bytes(90), "JPEG without its start": JPEG[2:], "end of a JPEG": b"\xff\xd8\xff\xd9",
}


@pytest.mark.parametrize("name", KINDS)
def test_well_known_kinds_that_are_not_read(name: str) -> None:
    assert run(KINDS[name])[0] == (None, None, "unsupported")


@pytest.mark.parametrize("name", NO_KINDS)
def test_no_images(name: str) -> None:
    assert run(NO_KINDS[name])[0] == (None, None, "not_an_image")


@pytest.mark.parametrize("frame", [0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7])
def test_jpegs_of_rare_processes(frame: int) -> None:
    encoded = JPEG[: FRAME + 1] + bytes([frame]) + JPEG[FRAME + 2 :]
    assert run(encoded)[0] == (96, 64, "unsupported")


@pytest.mark.parametrize("bits", [12, 16])
def test_jpegs_of_more_than_8_bits(bits: int) -> None:
    assert run(JPEG[: FRAME + 4] + bytes([bits]) + JPEG[FRAME + 5 :])[0] == (96, 64, "unsupported")


def tiff(*changed: tuple[int, int], pixels_HWC: np.ndarray | None = None) -> bytes:
    """A TIFF with changed tags. If 339 (the kind of sample) is named, it replaces 278 (rows of a strip)."""
    encoded = bytearray(plain_tiff(np.asarray(SMALL) if pixels_HWC is None else pixels_HWC, "<", 2))
    for tag, value in changed:
        at = next(at for at in range(10, 10 + 9 * 12, 12) if struct.unpack_from("<H", encoded, at) == (
            278 if tag == 339 else tag,))
        struct.pack_into("<HHII", encoded, at, tag, 3, 1, value)
    return bytes(encoded)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("kind", "dtype"), [(3, np.float32), (1, np.uint32), (3, np.float16), (3, np.float64)])
def test_tiffs_of_samples_without_a_range(kind: int, dtype: Any, channels: int) -> None:
    pixels_HWC = np.zeros((64, 96, channels), dtype)
    assert run(tiff((339, kind), (262, 2 if channels > 1 else 1), pixels_HWC=pixels_HWC))[0] == (96, 64, "unsupported")


@pytest.mark.parametrize("compression", [9, 10, 34712, 50002, 52546, 65000, 6])
def test_tiffs_of_rare_compressions(compression: int) -> None:
    assert run(tiff((259, compression)))[0] == (96, 64, "unsupported")


@pytest.mark.parametrize("photometric", [9, 10, 32803, 32844, 32845, 34892])
def test_tiffs_of_rare_colours_and_camera_raws(photometric: int) -> None:
    assert run(tiff((262, photometric)))[0] == (96, 64, "unsupported")


def test_a_compression_that_this_libtiff_does_not_have() -> None:
    try:
        save(SMALL, "TIFF", compression="webp")
    except OSError:
        assert run(tiff((259, 50001)))[0] == (96, 64, "unsupported")
    else:
        assert run(tiff((259, 50001)))[0] == (96, 64, "corrupt")


def test_bmps_of_rare_kinds() -> None:
    encoded = bytearray(save(SMALL, "BMP"))
    for at, value in ((28, 2), (30, 4)):  # bits, compression
        assert run(bytes(encoded[:at] + bytes([value, 0]) + encoded[at + 2 :]))[0] == (None, None, "unsupported")


@pytest.mark.parametrize("kind", [b"tEXt", b"gAMA", b"iCCP", b"ouRs", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_in_a_png(kind: bytes) -> None:
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(SMALL))
    data = {b"tEXt": b"a\0b", b"gAMA": b"\0\0\xb1\x8f", b"iCCP": b"a\0\0" + zlib.compress(b"a"),
            b"PLTE": bytes(9)}.get(kind, b"")
    sound = png(96, 64, 8, 2, rows, *([(kind, data)] if kind != b"IDAT" else []))
    assert run(sound)[0].error is None
    at = sound.index(kind)
    end = at + 4 + int.from_bytes(sound[at - 4 : at])
    assert run(sound[:end] + bytes([sound[end] ^ 1]) + sound[end + 1 :])[0] == (96, 64, "corrupt")
    assert run(sound[: end + 2])[0] == (96, 64, "truncated" if kind != b"IDAT" else None)


@pytest.mark.parametrize("length", [9, 20, 32, 40, 60])
def test_a_png_cut_in_its_header(length: int) -> None:
    assert run((PNG[:33] + chunk(b"tEXt", bytes(30)) + PNG[33:])[:length])[0].error == "truncated"


def test_a_tiff_whose_directory_is_cut_off() -> None:
    """libtiff writes it behind the pixels."""
    encoded = plain_tiff(np.asarray(SMALL), "<", 2)
    moved = encoded[:4] + struct.pack("<I", len(encoded)) + encoded[8:] + encoded[8 : 8 + 2 + 9 * 12 + 4]
    assert run(moved)[0] == (96, 64, None)
    assert run(moved[: len(encoded) - 9])[0] == (None, None, "truncated")
    for length in range(len(encoded), len(moved) - 4, 7):
        assert run(moved[:length])[0].error in (None, "truncated")  # the last tags may be those that can be missed
    lzw = save(CAT, "TIFF", compression="tiff_lzw")
    assert run(lzw[: len(lzw) // 2])[0].error == "truncated"


def test_a_damaged_image_is_corrupt() -> None:
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_adobe_deflate"})):
        encoded = save(CAT, kind, **options)
        assert run(encoded[:2000] + b"\x55" * 999 + encoded[2999:])[0] == (451, 300, "corrupt"), kind


def test_an_image_in_another_mode_is_what_it_was() -> None:
    assert run(save(Image.new("LAB", (9, 9)), "TIFF"))[0] == (9, 9, "unsupported")
