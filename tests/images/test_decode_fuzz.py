"""Small images of every format, changed at random: `decode` soon gives a reason, or the same pixels as Pillow."""

import io
import random
import re
import struct
import time
import warnings
from collections import Counter

import numpy as np
from PIL import Image, ImageOps

from pipeline.images.decode import decode_whole
from pipeline.images.room import Rejected
from tests.images.test_exif import block, chunk, segment
from tests.support.pictures import CAT, run, save

TINY = CAT.resize((48, 32))
IMAGES = {
    "JPEG": save(TINY, "JPEG", exif=b"Exif\0\0" + block(value=6)), "progressive": save(TINY, "JPEG", progressive=True),
    "restarts": save(TINY, "JPEG", restart_marker_rows=1), "CMYK": save(TINY.convert("CMYK"), "JPEG"),
    "PNG": save(TINY, "PNG"), "palette": save(TINY.quantize(20), "PNG", transparency=3), "WebP": save(TINY, "WEBP"),
    "lossless WebP": save(TINY, "WEBP", lossless=True, exif=block(value=8)), "GIF": save(TINY.quantize(64), "GIF"),
    "BMP": save(TINY, "BMP"), "TIFF": save(TINY, "TIFF"), "LZW": save(TINY, "TIFF", compression="tiff_lzw"),
}
RANDOM = random.Random(43)


def junk() -> bytes:
    """Bytes that may look like markers."""
    return bytes(RANDOM.choice([0, 0xFF, 0xDA, 0xD9, 0xD8, 0xC0, 0xE1, RANDOM.randrange(256)]) for _ in range(
        RANDOM.choice([1, 5, 40, 900])))


def padded(encoded: bytes) -> bytes:
    """With something more that no decoder minds."""
    if encoded.startswith(b"\xff\xd8"):
        at, places = 2, [2]
        while encoded[at + 1] != 0xDA:
            at += 2 + int.from_bytes(encoded[at + 2 : at + 4])
            places.append(at)
        match RANDOM.randrange(4):
            case 0:
                between = b"\xff" * RANDOM.choice([1, 2, 300])
            case 1:
                between = segment(junk(), 0xFE)
            case 2:
                between = segment(b"none " + junk(), RANDOM.choice([0xE1, 0xE2, 0xE5, 0xED]))
            case _:
                return encoded[:-2] + bytes(RANDOM.randrange(2000)) + encoded[-2:] + junk()
        at = RANDOM.choice(places)
    elif encoded.startswith(b"\x89PNG"):
        at = RANDOM.choice([match.start() - 4 for match in re.finditer(rb"PLTE|tRNS|IDAT|IEND", encoded)])
        between = chunk(RANDOM.choice([b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"ouRs", b"gAMA", b"eXIf", b"pHYs"]), junk())
    elif encoded.startswith(b"GIF"):
        at = 13 + 3 * 2 ** ((encoded[10] & 7) + 1)
        between = b"!\xfe" + b"".join(bytes([len(part)]) + part for part in (junk()[:255], junk()[:255])) + b"\0"
    else:
        return encoded + junk()
    return encoded[:at] + between + encoded[at:] + RANDOM.choice([b"", junk()])


def damaged(encoded: bytes) -> bytes:
    changed = bytearray(encoded)
    at = RANDOM.randrange(len(changed))
    match RANDOM.randrange(5):
        case 0:
            del changed[at:]
        case 1:
            del changed[at : at + RANDOM.randrange(1, 99)]
        case 2:
            changed[at:at] = junk()
        case 3:
            changed[at] ^= 1 << RANDOM.randrange(8)
        case _:
            changed[at : at + 4] = struct.pack(">I", RANDOM.choice([0, 1, 2**31 - 1, 2**32 - 1]))
    return bytes(changed)


def by_pillow(encoded: bytes) -> np.ndarray | None:
    """Upright, uint8 [height, width, 3]; None if Pillow fails or warns."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        image.info.pop("transparency", None)
        return np.asarray(image.convert("RGB"))
    except Exception:  # of a dozen kinds
        return None


def whole(encoded: bytes) -> np.ndarray | None:
    began = time.monotonic()
    decoded, _ = run(encoded, max_pixels=10**7)
    try:
        whole_HWC = decode_whole(encoded, max_pixels=10**7, max_bytes=10**7)
    except Rejected:
        whole_HWC = None
    assert time.monotonic() - began < 3
    assert (decoded.error is None) == (whole_HWC is not None)
    return whole_HWC


def test_what_harms_nothing_changes_no_pixel() -> None:
    for name, encoded in IMAGES.items():
        plain_HWC = whole(encoded)
        assert plain_HWC is not None
        for _ in range(25):
            changed = padded(encoded)
            whole_HWC = whole(changed)
            assert whole_HWC is not None, (name, run(changed)[0])
            assert np.array_equal(whole_HWC, plain_HWC), name


def test_what_harms_ends_in_a_reason_or_in_the_pixels_of_pillow() -> None:
    ends: Counter[bool] = Counter()
    for name, encoded in IMAGES.items():
        for turn in range(40):
            changed = damaged(padded(encoded) if turn % 2 else encoded)
            whole_HWC, pillow_HWC = whole(changed), by_pillow(changed)
            ends[whole_HWC is None] += 1
            if whole_HWC is not None and pillow_HWC is not None:
                assert whole_HWC.shape == pillow_HWC.shape, name
                assert np.array_equal(whole_HWC, pillow_HWC), name
    assert min(ends.values()) > 50
