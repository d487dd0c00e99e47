"""One encoded image -> its preprocessed pixels, written into a slot of the batch.

In: the bytes of one image: JPEG, PNG, WebP, BMP, GIF or TIFF. The content says which, never the name.
Out: the slot, uint8 RGB [299, 299, 3]: upright, shortest side resized to 341 (bicubic, antialias), central 299 x 299;
and a `Decoded`: the size of the stored image, or a reason code if the image is rejected.
Not here: reading shards, batching, the formats (`jpeg.py`, `pillow.py`), resizing (`preprocess.py`).

An image is decoded whole or rejected. A cut image is `truncated` (a JPEG must reach its end marker). A JPEG is
`corrupt`
if libjpeg has to guess a part of it, though most viewers show it: its pixels behind the damage are shifted or grey, so
its label would be a guess too. "Upright" means the result of Pillow's `ImageOps.exif_transpose`; an image with broken
EXIF counts as upright already.
Thread safe: simplejpeg, torch and Pillow release the GIL during the long parts, and start no threads here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.images.jpeg import read_jpeg
from pipeline.images.pillow import read_bmp, read_gif, read_png, read_tiff, read_webp
from pipeline.images.preprocess import Picture, preprocess, turn_upright
from pipeline.images.room import Rejected, Room
from pipeline.images.signatures import detect_image_format

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
    """The outcome of decoding.

    Attributes:
        width, height: pixels as stored, before EXIF rotation; None if unknown.
        error: a key of `REASONS`; None for a decoded image.
    """

    width: int | None
    height: int | None
    error: str | None


def decode(encoded: bytes, slot_HWC: np.ndarray, *, max_pixels: int, max_bytes: int, reduce: bool = True) -> Decoded:
    """Decode and preprocess one image into `slot_HWC`, uint8 [299, 299, 3]. A rejected image leaves zeros there.

    Without `reduce` the pixels differ from timm's evaluation preprocessing by 0.01 on average and by 2 at most (900
    photographs). No content of `encoded` raises an error, except MemoryError.

    Args:
        max_pixels: an image with more pixels by its header is not decoded.
        max_bytes: an image with more bytes is not looked at.
        reduce: decode a JPEG at 1/4 or 1/8 if its shortest side keeps at least 2 x 341 pixels. 12 megapixels then take
            0.6 of the time, and the pixels change by 0.3 to 0.8 of 255 on average.
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
    """The whole image, uint8 RGB [height, width, 3], upright. Raises Rejected if `decode` would reject it."""
    with Room(max_pixels) as room:
        picture = _read(encoded, room, max_bytes, reduce=False)
    return np.ascontiguousarray(turn_upright(picture.pixels_HWC, picture.orientation))


def _read(encoded: bytes, room: Room, max_bytes: int, reduce: bool) -> Picture:
    if len(encoded) > max_bytes:
        raise Rejected("too_large")
    image_format = detect_image_format(encoded)
    if image_format is None:
        raise Rejected("not_an_image" if encoded else "empty")
    if image_format == "JPEG":
        return read_jpeg(encoded, room, reduce)
    if image_format not in READERS:
        raise Rejected("unsupported")
    return READERS[image_format](encoded, room)


# By the names of `signatures.READ`, except JPEG.
READERS: dict[str, Callable[[bytes, Room], Picture]] = {
    "PNG": read_png, "WebP": read_webp, "BMP": read_bmp, "GIF": read_gif, "TIFF": read_tiff}
