"""An image that is none, too large, cut or damaged is rejected with a reason, and nothing raises."""

import io
import random
import re
import struct
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import CAT, FORMATS, PHOTOS, SMALL, assert_decodes_to, png, run, save, tiff


@pytest.mark.parametrize(("encoded", "reason"), [
    (b"", "empty"), (b"\0" * 1000, "not_an_image"), (b"<html>BM</html>", "not_an_image"),
    (b"BM, a car maker", "not_an_image"), (b"RIFF\0\0\0\0WAVEfmt " + bytes(100), "not_an_image"),
    (b"RIFF", "not_an_image"),
    (b"GIF89a", "not_an_image"),
    (b"\x89PNG\r\n\x1a\n" + bytes(50), "not_an_image"), (b"II*\0" + b"\xff" * 40, "not_an_image"),
    (b"\xff", "not_an_image")])
def test_what_is_no_image(encoded: bytes, reason: str) -> None:
    assert run(encoded)[0] == (None, None, reason)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PPM", "TGA", "PCX", "ICNS", "JPEG2000", "SGI"])
def test_what_pillow_knows_and_we_do_not(kind: str) -> None:
    reason = "not_an_image" if kind == "TGA" else "unsupported"  # it has no signature
    assert run(save(CAT.resize((64, 64)), kind))[0] == (None, None, reason)


@pytest.mark.parametrize("kind", FORMATS)
def test_too_large(kind: str) -> None:
    encoded = save(SMALL, kind)
    assert run(encoded, max_pixels=96 * 64)[0] == (96, 64, None)
    assert run(encoded, max_pixels=96 * 64 - 1)[0] == (96, 64, "too_large")
    assert run(encoded, max_bytes=len(encoded))[0] == (96, 64, None)
    assert run(encoded, max_bytes=len(encoded) - 1)[0] == (None, None, "too_large")


def large(kind: str) -> bytes:
    """A header of 60,000 x 60,000 (WebP: 16,383 x 16,383) on a small body."""
    encoded = bytearray(save(SMALL, kind, **({"lossless": True} if kind == "WEBP" else {})))
    side = 60_000
    match kind:
        case "JPEG":
            at = encoded.index(b"\xff\xc0")
            encoded[at + 5 : at + 9] = struct.pack(">HH", side, side)
        case "PNG":
            return png(side, side, 8, 2, bytes(1000))
        case "GIF":
            encoded[6:10] = struct.pack("<HH", side, side)
        case "BMP":
            encoded[18:26] = struct.pack("<ii", side, side)
        case "TIFF":
            return tiff(np.zeros((1, 1, 3), np.uint8), "<", 2).replace(
                struct.pack("<HHIHH", 256, 3, 1, 1, 0), struct.pack("<HHIHH", 256, 3, 1, side, 0)).replace(
                struct.pack("<HHIHH", 257, 3, 1, 1, 0), struct.pack("<HHIHH", 257, 3, 1, side, 0))
        case "WEBP":
            encoded[21:25] = struct.pack("<I", 16_382 | 16_382 << 14)
    return bytes(encoded)


@pytest.mark.parametrize("kind", FORMATS)
def test_bombs_are_refused_by_their_header(kind: str) -> None:
    start = time.process_time()
    side = 16_383 if kind == "WEBP" else 60_000
    assert run(large(kind))[0] == (side, side, "too_large")
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("options", [
    {}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_rows": 1}, {"quality": 20, "optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_cut_of_a_jpeg_is_rejected(mode: str, options: dict) -> None:
    encoded = save(SMALL.convert(mode), "JPEG", **options)
    assert run(encoded)[0].error is None
    for length in range(1, len(encoded), 1 if mode == "RGB" and not options else 9):
        error = run(encoded[:length])[0].error
        assert error == ("truncated" if length > 2 else "not_an_image"), length
    for length in (len(encoded) - 1, len(encoded) - 2, len(encoded) - 3):
        assert run(encoded[:length])[0] == (96, 64, "truncated")


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photograph_cut_at_any_marker_is_rejected(name: str) -> None:
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        encoded = save(Image.fromarray(PHOTOS[name]), "JPEG", **options)
        assert run(encoded)[0].error is None
        for match in re.finditer(rb"\xff[\xc0-\xfe]", encoded):
            for length in (match.start(), match.start() + 1, match.end()):
                assert run(encoded[:length])[0].error in ("truncated", "not_an_image",
                                                          "empty") or length >= len(encoded)


def test_a_jpeg_cut_and_ended_is_rejected() -> None:
    encoded = save(CAT, "JPEG")
    for part in (0.3, 0.5, 0.9, 0.99):
        assert run(encoded[: int(part * len(encoded))] + b"\xff\xd9")[0] == (451, 300, "corrupt")


def test_what_follows_the_end_of_a_jpeg_is_no_matter() -> None:
    encoded = save(CAT, "JPEG")
    assert np.array_equal(run(encoded)[1], run(encoded + b"\0" * 100 + b"junk" + encoded[:500])[1])


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("GIF", {"interlace": True}), ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", {"compression": "jpeg"}), ("BMP", {})])
def test_a_cut_image_is_whole_or_rejected(kind: str, options: dict) -> None:
    """What comes after the last pixel (PNG's check sums, GIF's trailer) may be missing; nothing else."""
    encoded = save(SMALL, kind, **options)
    _, whole_HWC = run(encoded)
    lengths = sorted({*range(1, 60), *range(60, len(encoded), max(1, len(encoded) // 150)),
                      *range(len(encoded) - 40, len(encoded))})
    for length in lengths:
        decoded, pixels_HWC = run(encoded[:length])
        if decoded.error is None:
            assert length > len(encoded) - 30, length
            assert np.array_equal(pixels_HWC, whole_HWC), length
        else:
            assert decoded.error in ("truncated", "corrupt", "not_an_image"), length
    if kind != "TIFF":
        assert run(encoded[: len(encoded) // 2])[0] == (96, 64, "truncated")


def test_a_jpeg_that_libjpeg_repairs_is_corrupt() -> None:
    """A dozen flipped bits in the scan: Pillow decodes nearly all of these, most of them shifted from there on."""
    encoded = save(CAT, "JPEG", subsampling=2)
    rng = random.Random(0)
    errors = []
    for _ in range(60):
        damaged = bytearray(encoded)
        for at in (rng.randrange(len(encoded) // 2, len(encoded) - 9) for _ in range(12)):
            damaged[at] ^= 1 << rng.randrange(8)
        errors.append(run(bytes(damaged))[0].error)
    assert set(errors) <= {None, "corrupt"}
    assert errors.count("corrupt") > 20


def test_a_harmless_warning_rejects_nothing() -> None:
    encoded = bytearray(save(CAT, "JPEG", subsampling=0))
    at = encoded.index(b"\xff\xda")
    encoded[at + 11 : at + 14] = bytes(3)  # spectral selection 0..0 in a sequential scan, as some phones write
    decoded, pixels_HWC = run(bytes(encoded))
    assert decoded == (451, 300, None)
    assert np.array_equal(pixels_HWC, run(save(CAT, "JPEG", subsampling=0))[1])
    assert run(bytes(encoded[:-2]))[0] == (451, 300, "truncated")


def test_pillow_warns_nobody() -> None:
    """pytest makes an error of any warning, and so does this filter, put before ours."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(CAT))
    bad_apng = png(*CAT.size, 8, 2, rows, (b"acTL", bytes(8)))
    bad_tiff = bytearray(save(CAT, "TIFF", tiffinfo={65000: "nine lives"}))
    at = bad_tiff.index(struct.pack("<H", 65000))
    bad_tiff[at + 8 : at + 12] = b"\xff\xff\xff\x7f"  # where its text would be
    for encoded in (bad_apng, bytes(bad_tiff)):
        with pytest.warns(UserWarning):
            Image.open(io.BytesIO(encoded))
    with warnings.catch_warnings():
        for encoded in (bad_apng, bytes(bad_tiff)):
            warnings.simplefilter("error")
            assert_decodes_to(encoded, CAT)


def test_mutations_end_in_a_row() -> None:
    rng = random.Random(1602_07261)
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", {"lossless": True}),
        ("BMP", {}), ("GIF", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"})]
    images = [save(SMALL, kind, **options) for kind, options in kinds]
    images += [save(SMALL.convert("CMYK"), "JPEG"), save(SMALL.quantize(9), "PNG", transparency=bytes(9)),
               save(SMALL, "GIF", save_all=True, append_images=[SMALL.rotate(9)]),
               save(SMALL, "PNG", save_all=True, append_images=[SMALL.rotate(9)]),
               save(SMALL, "WEBP", save_all=True, append_images=[SMALL.rotate(9)])]
    reasons = set()
    for turn in range(2100):
        encoded = bytearray(images[turn % len(images)])
        match rng.choice(["cut", "flip", "flip head", "junk head", "junk", "zeros", "splice"]):
            case "cut":
                del encoded[rng.randrange(len(encoded)) :]
            case "flip":
                for _ in range(rng.randrange(1, 13)):
                    encoded[rng.randrange(len(encoded))] ^= 1 << rng.randrange(8)
            case "flip head":
                for _ in range(rng.randrange(1, 5)):
                    encoded[rng.randrange(min(120, len(encoded)))] ^= 1 << rng.randrange(8)
            case "junk head":
                encoded[4 : 4 + rng.randrange(60)] = rng.randbytes(rng.randrange(60))
            case "junk":
                at = rng.randrange(len(encoded))
                encoded[at : at + 50] = rng.randbytes(50)
            case "zeros":
                at = rng.randrange(len(encoded))
                encoded[at : at + rng.randrange(200)] = bytes(rng.randrange(200))
            case "splice":
                at = rng.randrange(len(encoded))
                encoded[at:] = rng.choice(images)[at:]
        start = time.monotonic()
        decoded, _ = run(bytes(encoded), max_pixels=10**7)
        assert time.monotonic() - start < 5
        reasons.add(decoded.error)
    assert reasons >= {None, "truncated", "corrupt", "not_an_image", "too_large"}


def test_many_threads_do_not_meet() -> None:
    sound = [save(Image.fromarray(photo), "JPEG") for photo in PHOTOS.values()] + [save(CAT, kind) for kind in FORMATS]
    images = sound + [encoded[: len(encoded) // 2] for encoded in sound] + [b"", b"junk"]
    alone = [run(encoded) for encoded in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(run, images * 4))
    for (decoded, pixels_HWC), (decoded_alone, pixels_alone_HWC) in zip(together, alone * 4, strict=True):
        assert decoded == decoded_alone
        assert np.array_equal(pixels_HWC, pixels_alone_HWC)
