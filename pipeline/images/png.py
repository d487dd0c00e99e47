"""A PNG -> a smaller PNG with only the chunks that the pixels need, and the chunks that may hold an orientation.

In: the bytes of a PNG. Out: the smaller PNG; the orientation's chunks in the form of Pillow's `info`.
Texts and colour profiles are removed: Pillow refuses a whole file because of a text of more than 1 MB, and because of
wrong lengths that other decoders ignore. The checksums of all chunks up to the last pixel are compared.
Not here: decoding (`pillow.py`).
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from io import BytesIO

from PIL.PngImagePlugin import PngStream

from pipeline.images.room import Rejected, Room

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"IHDR", b"PLTE", b"IDAT")  # of an animation these are the default image
TEXT = (b"tEXt", b"zTXt", b"iTXt")
KEYS = (b"Raw profile type exif", b"exif", b"XML:com.adobe.xmp", b"xmp")  # of texts in which Pillow seeks EXIF or XMP
MAX_TEXTS = 100  # that are read, from the end: the last text of a key counts

Info = dict[str | tuple[int, int], object]


def strip_png(encoded: bytes, room: Room) -> tuple[bytes, Info]:
    """The PNG without the chunks that its pixels do not need; and its `info`, with Pillow's keys.

    A PNG that ends within its pixels is returned, and still ends there.

    Raises:
        Rejected: the PNG ends before its pixels, is damaged, or is too large for `room`.
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
    orientation_chunks: deque[tuple[bytes, int, int]] = deque(maxlen=MAX_TEXTS)
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
        if kind == b"eXIf" or (kind in TEXT and encoded[start : start + 22].split(b"\0")[0] in KEYS):
            orientation_chunks.append((kind, start, length))
        at = end
    if pixels == "to come":
        raise Rejected("corrupt" if kind == b"IEND" else "truncated", width, height)
    return b"".join(kept), _read_info(encoded, orientation_chunks) if orientation_chunks else {}


def _read_info(encoded: bytes, chunks: deque[tuple[bytes, int, int]]) -> Info:
    """Pillow's `info` for these chunks (kind, start, length). A chunk that Pillow refuses is passed over."""
    file = BytesIO(encoded)
    stream = PngStream(file)
    for kind, start, length in chunks:
        file.seek(start)
        try:
            stream.call(kind, start, length)
        except Exception as error:  # Pillow raises a dozen kinds of errors for broken text
            if isinstance(error, MemoryError):
                raise
    return stream.im_info
