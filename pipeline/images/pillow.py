"""One encoded image of any format that is read -> its pixels, by Pillow.

In: the bytes, and Pillow's plugin for them. Out: a `Picture`, uint8 RGB; `Rejected` for what Pillow refuses.
Not here: JPEGs, but for those that `jpeg.py` hands over; upright pixels, but for TIFF.

The first frame stands for an animation, the first page for a file of several. Alpha is dropped, not blended, as timm's
evaluation does (Pillow's `convert("RGB")`). 16-bit samples keep their high byte.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.images.exif import orientation_in, orientation_of, silence_pillow
from pipeline.images.png import lean_png
from pipeline.images.preprocess import Picture, upright
from pipeline.images.room import LARGE, Rejected, Room
from pipeline.images.tiff import Tiff

BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF


def read_png(encoded: bytes, room: Room) -> Picture:
    """Without its text and profile, which Pillow would read first."""
    lean, info = lean_png(encoded, room)
    return read_with_pillow(lean, PngImageFile, room, orientation_in(info), "corrupt")


def read_webp(encoded: bytes, room: Room) -> Picture:
    """Size and length by the header (RFC 9649), for Pillow makes room for the pixels before it tells their number."""
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
    return read_with_pillow(encoded, BmpImageFile, room)


def read_gif(encoded: bytes, room: Room) -> Picture:
    return read_with_pillow(encoded, GifImageFile, room)


def read_tiff(encoded: bytes, room: Room) -> Picture:
    return read_with_pillow(encoded, Tiff, room)


def read_with_pillow(encoded: bytes, plugin: type[ImageFile.ImageFile], room: Room, orientation: int | None = None,
                     otherwise: str = "not_an_image") -> Picture:
    """Through the plugin: `Image.open` warns about sizes by a limit of its own.

    `orientation`: 1 to 8 if it is known; else the file is asked. `otherwise`: the reason if the file cannot be opened
    and Pillow does not say why.
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
            orientation = orientation_of(file)
        file.load()
        if file.mode.startswith("I;16"):
            grey_HW = (np.asarray(file) >> (tags.get(BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
            white_is_zero = tags.get(PHOTOMETRIC) == 0  # Pillow inverts those of 8 bits only
            pixels_HWC = np.dstack([~grey_HW if white_is_zero else grey_HW] * 3)
        else:
            file.info.pop("transparency", None)  # dropped like all alpha; `convert` would look for its colour
            pixels_HWC = _rgb(file)
    except (MemoryError, Rejected):
        raise
    except Exception as error:  # Pillow raises a dozen kinds for what an image may contain
        if isinstance(file, Tiff):
            otherwise = "truncated" if file.is_cut() else otherwise if file.is_known() else "unsupported"
        raise Rejected(_reason(error, otherwise), width, height) from error
    if isinstance(file, Tiff):
        pixels_HWC, orientation = np.ascontiguousarray(upright(pixels_HWC, orientation)), 1
    return Picture(pixels_HWC, pixels_HWC.shape[0], pixels_HWC.shape[1], 1, orientation, (width, height))


def _reason(error: Exception, otherwise: str) -> str:
    said = str(error).lower()
    if isinstance(error, Image.DecompressionBombError):  # a frame or tile larger than the header's size
        return "too_large"
    if "truncated" in said:
        return "truncated"
    if "unsupported bmp" in said and "header type" not in said:  # the type tells a BMP from text that begins with BM
        return "unsupported"
    return otherwise


def _rgb(file: ImageFile.ImageFile) -> np.ndarray:
    """The pixels as uint8 [height, width, 3]; a large image in bands, for Pillow would hold it four times over."""
    width, height = file.size
    if width * height <= LARGE:
        return np.array(file.convert("RGB"))
    pixels_HWC = np.empty((height, width, 3), np.uint8)
    step = max(1, LARGE // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        pixels_HWC[top:bottom] = np.asarray(file.crop((0, top, width, bottom)).convert("RGB"))
    return pixels_HWC
