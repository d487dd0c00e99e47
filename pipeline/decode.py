"""One encoded image -> its preprocessed pixels, in the place where the batch wants them.

In: the bytes of one image: JPEG, PNG, WebP, BMP, GIF or TIFF, told by content and never by name.
Out: the slot, uint8 RGB [299, 299, 3]: upright, shortest side resized to 341 (bicubic, antialias), centre 299 kept;
and `Decoded`: the size as stored, or a reason code for an image that is rejected.
Not here: reading shards, batching, resizing (`preprocess.py`).

Whole or rejected: a cut-off image is `truncated` (a JPEG must reach its end marker), and a JPEG of which libjpeg has to
guess a part is `corrupt`, though most viewers show it: what follows the damage is shifted or grey, and its label would
be a guess too. The first frame stands for an animation, the first page for a file of several. Alpha is dropped, not
blended, as timm's evaluation does (Pillow's `convert("RGB")`). 16-bit samples keep their high byte. Broken EXIF means
upright. Thread safe; simplejpeg, torch and Pillow release the GIL where the time goes, and start no threads here.
"""

from __future__ import annotations

import re
import struct
import threading
import warnings
from io import BytesIO
from math import ceil
from typing import NamedTuple, Self

import numpy as np
import simplejpeg
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.inception_v4 import RESIZE_SIDE
from pipeline.memory import give_freed_memory_back
from pipeline.preprocess import UPRIGHT, Picture, preprocess, upright

REASONS = {
    "empty": "zero bytes",
    "not_an_image": "no signature of a known format, or a header that cannot be read",
    "too_large": "more encoded bytes than allowed, or more pixels by its header, or a JPEG of over 100 scans; never decoded",
    "truncated": "ends before its last pixel; a JPEG: before its end marker",
    "corrupt": "the decoder refused it, or could only guess at some of its pixels",
    "unsupported": "samples whose range the format does not fix (32-bit whole, floating point), or CIE L*a*b*",
}
# What libjpeg-turbo says when a header is odd and the pixels are none the worse (its jerror.h): Pillow decodes those.
HARMLESS = ("Invalid SOS parameters", "Unknown Adobe color transform", "unknown JFIF revision")

PLUGINS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile, b"RIFF": WebPImageFile, b"BM": BmpImageFile,
    b"GIF87a": GifImageFile, b"GIF89a": GifImageFile, b"II*\0": TiffImageFile, b"MM\0*": TiffImageFile,
    b"II+\0": TiffImageFile, b"MM\0+": TiffImageFile}  # + is BigTIFF

BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION = 258, 262, 274  # tags of TIFF, the last of EXIF too
MOST_SCANS = 100  # of a progressive JPEG; encoders make about ten, and each goes over all pixels
LARGE = 2**24  # pixels; images of more are decoded one at a time, for Pillow may take ten bytes a pixel

_PILLOW_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # as `filterwarnings` lists it
_lock, _large = threading.Lock(), threading.Lock()


class Decoded(NamedTuple):
    """Width and height in pixels as stored, before EXIF rotation (None if unknown); None or a key of `REASONS`."""

    width: int | None
    height: int | None
    error: str | None


class _Rejected(Exception):
    def __init__(self, reason: str, width: int | None = None, height: int | None = None) -> None:
        super().__init__(reason)
        self.decoded = Decoded(width, height, reason)


def decode(encoded: bytes, slot_HWC: np.ndarray, *, max_pixels: int, max_bytes: int, reduce: bool = True) -> Decoded:
    """Decode and preprocess one image into `slot_HWC`, uint8 [299, 299, 3]; all zero if the image is rejected.

    An image of more than `max_bytes` is not looked at, one of more than `max_pixels` by its header not decoded.
    `reduce` decodes a JPEG at 1/4 or 1/8 if the shortest side keeps at least 2 x 341 pixels: 12 megapixels take 0.6
    of the time, and the output moves by 0.3 to 0.8 of 255 on average. Otherwise it equals timm's evaluation
    preprocessing to 0.01 on average and 2 at most (900 photographs). Nothing in `encoded` raises; MemoryError passes.
    """
    with _Room(max_pixels) as room:
        try:
            picture = _read(encoded, room, max_bytes, reduce)
        except _Rejected as rejected:
            slot_HWC[...] = 0
            return rejected.decoded
        preprocess(picture, slot_HWC)
    return Decoded(*picture.stored, None)


def decode_whole(encoded: bytes, *, max_pixels: int, max_bytes: int) -> np.ndarray | None:
    """The whole image, uint8 RGB [height, width, 3], upright; None where `decode` would reject it."""
    with _Room(max_pixels) as room:
        try:
            picture = _read(encoded, room, max_bytes, reduce=False)
        except _Rejected:
            return None
    return np.ascontiguousarray(upright(picture.pixels_HWC, picture.orientation))


class _Room:
    """The pixels an image may have, and its turn if it is large, until the context is left."""

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self.mine = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.mine:
            give_freed_memory_back()
            _large.release()

    def take(self, width: int, height: int) -> None:
        """Wait for the turn of an image of this size; rejected if it is too large, or has no pixels."""
        if width * height > self.max_pixels or not width * height:
            raise _Rejected("too_large" if width * height else "corrupt", width, height)
        if width * height > LARGE and not self.mine:
            _large.acquire()
            self.mine = True


def _read(encoded: bytes, room: _Room, max_bytes: int, reduce: bool) -> Picture:
    if len(encoded) > max_bytes:
        raise _Rejected("too_large")
    plugin = next((plugin for signature, plugin in PLUGINS.items() if encoded.startswith(signature)), None)
    if plugin is None:
        raise _Rejected("not_an_image" if encoded else "empty")
    return _read_jpeg(encoded, room, reduce) if plugin is JpegImageFile else _read_with_pillow(encoded, plugin, room)


def _read_jpeg(encoded: bytes, room: _Room, reduce: bool) -> Picture:
    """Grey and three colours by simplejpeg; four colours and odd headers by Pillow."""
    exif, progressive = _jpeg_header(encoded)
    if progressive and encoded.count(b"\xff\xda") > MOST_SCANS:
        raise _Rejected("too_large")
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError as error:  # of a header that is cut, or of a kind that Pillow may know
        if exif is None:
            raise _Rejected("truncated") from error
        return _read_with_pillow(encoded, JpegImageFile, room)
    room.take(width, height)
    if colours in ("CMYK", "YCCK"):
        return _read_with_pillow(encoded, JpegImageFile, room)
    factors = (8, 4) if reduce else ()  # not 2: it saves little for what it changes
    factor = next((factor for factor in factors if min(height, width) >= factor * 2 * RESIZE_SIDE), 1)
    try:
        pixels_HWC = simplejpeg.decode_jpeg(encoded, "RGB", strict=True, min_factor=factor,
                                            min_height=ceil(height / factor), min_width=ceil(width / factor))
    except ValueError as error:
        if any(warning in str(error) for warning in HARMLESS):
            return _read_with_pillow(encoded, JpegImageFile, room)
        cut = "Premature end of JPEG file" in str(error) or b"\xff\xd9" not in encoded
        raise _Rejected("truncated" if cut else "corrupt", width, height) from error
    return Picture(pixels_HWC, height, width, factor, _orientation(exif or b""), (width, height))


def _jpeg_header(encoded: bytes) -> tuple[bytes | None, bool]:
    """The EXIF segment, empty if there is none before the first scan, None if the file ends before that; and whether the
    image is progressive."""
    at, exif, progressive = 2, b"", False
    while at + 4 <= len(encoded):
        marker, size = struct.unpack_from(">HH", encoded, at)
        if marker == 0xFFE1 and not exif and encoded.startswith(b"Exif\0\0", at + 4):
            exif = encoded[at + 4 : at + 2 + size]
        if marker == 0xFFDA or marker < 0xFF00:
            return exif, progressive
        progressive |= marker in (0xFFC2, 0xFFCA)
        at += 2 + size
    return None, progressive


def _orientation(exif: bytes) -> int:
    """1 to 8 as EXIF numbers them; 1, upright, if it does not say or is broken."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = "<" if tiff.startswith(b"II") else ">"
    try:
        (directory,) = struct.unpack_from(order + "4xI", tiff)
        (num_entries,) = struct.unpack_from(order + "H", tiff, directory)
        entries = tiff[directory + 2 : directory + 2 + 12 * num_entries]
        for tag, _type, _count, value in struct.iter_unpack(order + "HHIH2x", entries):
            if tag == ORIENTATION and value in UPRIGHT:
                return value
    except struct.error:  # it ends before its entries do
        pass
    return 1


def _read_with_pillow(encoded: bytes, plugin: type[ImageFile.ImageFile], room: _Room) -> Picture:
    """Any format, through its plugin: `Image.open` warns about sizes by a limit of its own."""
    with _lock:  # `warnings.catch_warnings` is not thread safe; one filter, for PIL's own modules, left in place, is
        if warnings.filters[:1] != [_PILLOW_QUIET]:  # the first use, or somebody has put other filters before it
            warnings.filterwarnings("ignore", module=r"PIL\.")
    if plugin is WebPImageFile:
        _check_webp(encoded, room)
    width, height, otherwise = None, None, "not_an_image"
    try:
        file = plugin(BytesIO(encoded))
        width, height = file.size
        tags = file.tag_v2 if isinstance(file, TiffImageFile) else {}
        if tags.get(ORIENTATION) in (5, 6, 7, 8):
            width, height = height, width
        room.take(width, height)
        if file.mode in ("I", "F", "LAB"):
            raise _Rejected("unsupported", width, height)
        otherwise = "corrupt"
        file.load()
        orientation = 1 if tags else _orientation(file.info.get("exif", b""))
        if file.mode.startswith("I;16"):
            grey_HW = (np.asarray(file) >> (tags.get(BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
            white_is_zero = tags.get(PHOTOMETRIC) == 0  # Pillow inverts those of 8 bits only
            pixels_HWC = np.dstack([~grey_HW if white_is_zero else grey_HW] * 3)
        else:
            file.info.pop("transparency", None)  # dropped like all alpha; `convert` would look for its colour
            pixels_HWC = _rgb(file)
    except (MemoryError, _Rejected):
        raise
    except Exception as error:  # Pillow raises a dozen kinds for what an image may contain
        if isinstance(error, Image.DecompressionBombError):  # a frame or tile larger than the header's size
            otherwise = "too_large"
        raise _Rejected("truncated" if "truncated" in str(error).lower() else otherwise, width, height) from error
    return Picture(pixels_HWC, pixels_HWC.shape[0], pixels_HWC.shape[1], 1, orientation, (width, height))


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


def _check_webp(encoded: bytes, room: _Room) -> None:
    """Size and length by the header (RFC 9649), for Pillow makes room for the pixels before it tells their number."""
    match encoded[8:16]:
        case b"WEBPVP8X":
            width, height = (1 + int.from_bytes(encoded[at : at + 3], "little") for at in (24, 27))
        case b"WEBPVP8L":
            width, height = (1 + (int.from_bytes(encoded[21:25], "little") >> bit & 0x3FFF) for bit in (0, 14))
        case b"WEBPVP8 ":
            width, height = (int.from_bytes(encoded[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        case _:
            raise _Rejected("not_an_image")
    room.take(width, height)
    if len(encoded) < 8 + int.from_bytes(encoded[4:8], "little"):
        raise _Rejected("truncated", width, height)
