"""One encoded image -> its preprocessed pixels, in the place where the batch wants them.

In: the bytes of one image: JPEG, PNG, WebP, BMP, GIF or TIFF, told by content and never by name.
Out: the slot, uint8 RGB [299, 299, 3]: upright, shortest side resized to 341 (bicubic, antialias), centre 299 kept;
and `Decoded`: the size as stored, or a reason code for an image that is rejected.
Not here: reading shards, batching, the formats (`jpeg.py`, `with_pillow.py`), resizing (`preprocess.py`).

Whole or rejected: a cut-off image is `truncated` (a JPEG must reach its end marker), and a JPEG of which libjpeg has to
guess a part is `corrupt`, though most viewers show it: what follows the damage is shifted or grey, and its label would
be a guess too. Upright is what Pillow's `ImageOps.exif_transpose` makes of it; broken EXIF means upright already.
Thread safe; simplejpeg, torch and Pillow release the GIL where the time goes, and start no threads here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.images.jpeg import read_jpeg
from pipeline.images.kinds import kind_of
from pipeline.images.pillow import read_bmp, read_gif, read_png, read_tiff, read_webp
from pipeline.images.preprocess import Picture, preprocess, upright
from pipeline.images.room import Rejected, Room

REASONS = {
    "empty": "zero bytes",
    "not_an_image": "no signature of an image that is known, or a header that cannot be read",
    "too_large": "more encoded bytes than allowed, or more pixels by its header, or a JPEG of over 100 scans or 10,000"
                 " segments; never decoded",
    "truncated": "ends before its last pixel; a JPEG: before its end marker",
    "corrupt": "a PNG's checksum is wrong, the decoder refused it, or could only guess at some of its pixels",
    "unsupported": "an image of a kind that is not read: another format, a JPEG of 12 bits or of a rare process, a TIFF"
                   " of a rare compression, samples whose range the format does not fix (32-bit whole, floating point),"
                   " CIE L*a*b*",
}


class Decoded(NamedTuple):
    """Width and height in pixels as stored, before EXIF rotation (None if unknown); None or a key of `REASONS`."""

    width: int | None
    height: int | None
    error: str | None


def decode(encoded: bytes, slot_HWC: np.ndarray, *, max_pixels: int, max_bytes: int, reduce: bool = True) -> Decoded:
    """Decode and preprocess one image into `slot_HWC`, uint8 [299, 299, 3]; all zero if the image is rejected.

    An image of more than `max_bytes` is not looked at, one of more than `max_pixels` by its header not decoded.
    `reduce` decodes a JPEG at 1/4 or 1/8 if the shortest side keeps at least 2 x 341 pixels: 12 megapixels take 0.6
    of the time, and the output moves by 0.3 to 0.8 of 255 on average. Otherwise it equals timm's evaluation
    preprocessing to 0.01 on average and 2 at most (900 photographs). Nothing in `encoded` raises; MemoryError passes.
    """
    with Room(max_pixels) as room:
        try:
            picture = _read(encoded, room, max_bytes, reduce)
        except Rejected as rejected:
            slot_HWC[...] = 0
            return Decoded(rejected.width, rejected.height, rejected.reason)
        preprocess(picture, slot_HWC)
    return Decoded(*picture.stored, None)


def decode_whole(encoded: bytes, *, max_pixels: int, max_bytes: int) -> np.ndarray:
    """The whole image, uint8 RGB [height, width, 3], upright. Raises Rejected where `decode` would reject it."""
    with Room(max_pixels) as room:
        picture = _read(encoded, room, max_bytes, reduce=False)
    return np.ascontiguousarray(upright(picture.pixels_HWC, picture.orientation))


def _read(encoded: bytes, room: Room, max_bytes: int, reduce: bool) -> Picture:
    if len(encoded) > max_bytes:
        raise Rejected("too_large")
    match kind_of(encoded):
        case "JPEG":
            return read_jpeg(encoded, room, reduce)
        case "PNG":
            return read_png(encoded, room)
        case "WebP":
            return read_webp(encoded, room)
        case "BMP":
            return read_bmp(encoded, room)
        case "GIF":
            return read_gif(encoded, room)
        case "TIFF":
            return read_tiff(encoded, room)
        case None:
            raise Rejected("not_an_image" if encoded else "empty")
        case _:
            raise Rejected("unsupported")
