"""A PNG -> what of it the pixels need, and what it says of its orientation.

In: the bytes of a PNG. Out: a smaller PNG, and Pillow's `info` of what may hold an orientation. Text and colour
profiles do not pass: Pillow refuses a whole file for one of over 1 MB, and for lengths that no decoder minds.
Checksums are compared up to the last pixel, in chunks of any kind. Not here: decoding (`with_pillow.py`).
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from io import BytesIO

from PIL.PngImagePlugin import PngStream

from pipeline.images.room import Rejected, Room

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"IDAT")  # and so of an animation the image that stands for it
TEXT = (b"tEXt", b"zTXt", b"iTXt")
KEYS = (b"Raw profile type exif", b"exif", b"XML:com.adobe.xmp", b"xmp")  # of text in which Pillow looks for EXIF, XMP
MOST_TEXTS = 100  # that are looked at, from the end: the last of a key counts

Info = dict[str | tuple[int, int], object]


def lean_png(encoded: bytes, room: Room) -> tuple[bytes, Info]:
    """The same image without what its pixels do not need; and `info`, with the keys of Pillow's.

    A file that ends in its pixels does so in what is returned; one that ends before is `Rejected` as truncated.
    """
    if len(encoded) < 33:
        raise Rejected("truncated")
    if encoded[8:16] != b"\0\0\0\rIHDR":
        raise Rejected("not_an_image")
    if zlib.crc32(encoded[12:29]) != int.from_bytes(encoded[29:33]):
        raise Rejected("corrupt")
    width, height = struct.unpack_from(">II", encoded, 16)
    room.take(width, height)
    view, at = memoryview(encoded), len(SIGNATURE)
    kept: list[bytes | memoryview] = [SIGNATURE]
    spoken: deque[tuple[bytes, int, int]] = deque(maxlen=MOST_TEXTS)
    pixels = "to come"
    while at + 8 <= len(encoded):
        length, kind = struct.unpack_from(">I4s", encoded, at)
        start, end = at + 8, at + 12 + length
        if kind == b"IDAT" and pixels == "to come":
            pixels = "here"
        elif kind != b"IDAT" and pixels == "here":
            pixels = "over"
        if pixels != "over":
            if end > len(encoded) and kind != b"IDAT":
                raise Rejected("truncated", width, height)
            if end <= len(encoded) and zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
                raise Rejected("corrupt", width, height)
            if kind in KEPT:
                kept.append(view[at:end])
        if kind == b"IEND":
            break
        if kind == b"eXIf" or kind in TEXT and encoded[start : start + 22].split(b"\0")[0] in KEYS:
            spoken.append((kind, start, length))
        at = end
    if pixels == "to come":
        raise Rejected("corrupt" if kind == b"IEND" else "truncated", width, height)
    return b"".join(kept), _info(encoded, spoken) if spoken else {}


def _info(encoded: bytes, chunks: deque[tuple[bytes, int, int]]) -> Info:
    """What Pillow makes of these chunks: kind, start, length. One that it refuses says nothing."""
    file = BytesIO(encoded)
    stream = PngStream(file)
    for kind, start, length in chunks:
        file.seek(start)
        try:
            stream.call(kind, start, length)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112  # Pillow raises a dozen kinds for what text may contain
            continue
    return stream.im_info
