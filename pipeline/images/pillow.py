"""One encoded image -> its pixels, by Pillow.

In: the bytes, and Pillow's plugin for their format. Out: a `Picture`, uint8 RGB; `Rejected` if Pillow refuses the
image.
Not here: JPEGs, except those that `jpeg.py` passes on; turning pixels upright, except those of a TIFF.

The first frame of an animation and the first page of a file are read. Alpha is dropped, not blended, as in timm's
evaluation (Pillow's `convert("RGB")`). 16-bit samples keep their high byte.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.images.exif import read_orientation, read_orientation_of_info, silence_pillow
from pipeline.images.png import strip_png
from pipeline.images.preprocess import Picture, turn_upright
from pipeline.images.room import LARGE, Rejected, Room
from pipeline.images.tiff import Tiff

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF


def read_png(encoded: bytes, room: Room) -> Picture:
    """A PNG. Its text and its profile are removed first: Pillow would read them."""
    stripped, info = strip_png(encoded, room)
    return read_with_pillow(stripped, PngImageFile, room, read_orientation_of_info(info), "corrupt")


def read_webp(encoded: bytes, room: Room) -> Picture:
    """A WebP. Its size comes from the header (RFC 9649): Pillow allocates the pixels before it tells the size."""
    match encoded[8:16]:
        case b"WEBPVP8X":
            width, height = (1 + int.from_bytes(encoded[at : at + 3], "little") for at in (24, 27))
        case b"WEBPVP8L":
            width, height = (1 + (int.from_bytes(encoded[21:25], "little") >> bit & 0x3FFF) for bit in (0, 14))
        case b"WEBPVP8 ":
            width, height = (int.from_bytes(encoded[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        case _:
            raise Rejected("not_an_image")
    room.take(width, height)
    if len(encoded) < 8 + int.from_bytes(encoded[4:8], "little"):
        raise Rejected("truncated", width, height)
    return read_with_pillow(encoded, WebPImageFile, room, None, "corrupt")


def read_bmp(encoded: bytes, room: Room) -> Picture:
    """A BMP."""
    return read_with_pillow(encoded, BmpImageFile, room)


def read_gif(encoded: bytes, room: Room) -> Picture:
    """The first frame of a GIF."""
    return read_with_pillow(encoded, GifImageFile, room)


def read_tiff(encoded: bytes, room: Room) -> Picture:
    """The first page of a TIFF, upright."""
    return read_with_pillow(encoded, Tiff, room)


def read_with_pillow(encoded: bytes, plugin: type[ImageFile.ImageFile], room: Room, orientation: int | None = None,
                     otherwise: str = "not_an_image") -> Picture:
    """An image by one plugin of Pillow. `Image.open` is not used: it has its own limit for sizes.

    Args:
        orientation: 1 to 8; None: Pillow reads it from the file.
        otherwise: the reason code if the file cannot be opened and Pillow's error does not say why.

    Raises:
        Rejected: Pillow refuses the image, or `room` does.
    """
    silence_pillow()
    width, height = None, None
    file = None
    try:
        file = plugin(BytesIO(encoded))
        tags = file.tag_v2 if isinstance(file, Tiff) else {}
        width, height = file._tile_size if isinstance(file, Tiff) else file.size
        room.take(width, height)
        if file.mode in ("I", "F", "LAB"):
            raise Rejected("unsupported", width, height)
        if otherwise == "not_an_image":
            otherwise = "corrupt"
        if orientation is None:
            orientation = read_orientation(file)
        file.load()
        if file.mode.startswith("I;16"):
            grey_HW = (np.asarray(file) >> (tags.get(BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
            white_is_zero = tags.get(PHOTOMETRIC) == 0  # Pillow inverts 8-bit samples only
            pixels_HWC = np.dstack([~grey_HW if white_is_zero else grey_HW] * 3)
        else:
            file.info.pop("transparency", None)  # alpha is dropped; `convert` would look for this colour
            pixels_HWC = _to_rgb(file)
    except (MemoryError, Rejected):
        raise
    except Exception as error:  # Pillow raises a dozen kinds of errors for broken images
        if isinstance(file, Tiff):
            otherwise = "truncated" if file.is_cut() else otherwise if file.has_decoder() else "unsupported"
        raise Rejected(_choose_reason(error, otherwise), width, height) from error
    if isinstance(file, Tiff):
        pixels_HWC, orientation = np.ascontiguousarray(turn_upright(pixels_HWC, orientation)), 1
    return Picture(pixels_HWC, pixels_HWC.shape[0], pixels_HWC.shape[1], 1, orientation, (width, height))


def _choose_reason(error: Exception, otherwise: str) -> str:
    """The reason code for an error of Pillow; `otherwise` if its message says nothing."""
    message = str(error).lower()
    if isinstance(error, Image.DecompressionBombError):  # a frame or tile is larger than the image
        return "too_large"
    if "truncated" in message:
        return "truncated"
    # An unknown header type means: this may be a text that begins with BM, not a BMP.
    if "unsupported bmp" in message and "header type" not in message:
        return "unsupported"
    return otherwise


def _to_rgb(file: ImageFile.ImageFile) -> np.ndarray:
    """The pixels, uint8 [height, width, 3]. A large image is converted in bands: Pillow would take four copies."""
    width, height = file.size
    if width * height <= LARGE:
        return np.array(file.convert("RGB"))
    pixels_HWC = np.empty((height, width, 3), np.uint8)
    step = max(1, LARGE // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        pixels_HWC[top:bottom] = np.asarray(file.crop((0, top, width, bottom)).convert("RGB"))
    return pixels_HWC
