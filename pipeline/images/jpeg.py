"""One JPEG -> its pixels, perhaps at a smaller scale: by simplejpeg (libjpeg-turbo), or by Pillow.

In: the bytes of a JPEG. Data behind the end of its first image is ignored.
Out: a `Picture`, uint8 RGB, not yet upright; `Rejected` if the JPEG is cut or damaged, uses a process that libjpeg does
not decode, or has too many scans.
Not here: reading EXIF (`exif.py`); this file only finds it.

Markers are as in ITU T.81 B.1.1.2: any number of bytes FF may stand before a marker. libjpeg passes over other bytes
too. A header with such bytes is written anew for the decoders.
"""

from __future__ import annotations

import re
import struct
from math import ceil
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.images.exif import read_orientation_of_info
from pipeline.images.pillow import read_with_pillow
from pipeline.images.preprocess import Picture
from pipeline.images.room import Rejected, Room
from pipeline.model.spec import RESIZE_SIDE

MAX_SCANS = 100  # of a progressive JPEG; encoders make about ten; each scan goes over all pixels
MAX_SEGMENTS = 10_000  # before the first scan, and after it; a profile of 64 MiB has 1,000 segments

# Messages of libjpeg-turbo (jerror.h) after which Pillow decodes the image: an odd scan header that does not harm the
# pixels; colours that simplejpeg cannot convert.
FOR_PILLOW = ("Invalid SOS parameters", "Unsupported color conversion")
EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")  # 0xd9 is the end marker, so all lines are there

_unpack_head = struct.Struct(">HH").unpack_from
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # of a segment; restart markers and TEM (1) have none
SOI, EOI, SOS, APP0, APP1, APP14, APP15, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
LAST = (SOI, EOI, SOS)  # markers that end a header; the first two end it too early
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # 0xF7 is JPEG-LS
PROGRESSIVE, LOSSLESS = (0xC2, 0xCA), 0xC3
DECODED = (0xC0, 0xC1, *PROGRESSIVE, LOSSLESS, 0xC9)  # 0xC9 and 0xCA are arithmetic coding


class Header(NamedTuple):
    """The header: everything before the first scan."""

    frame: int  # of `FRAMES`
    width: int
    height: int
    channels: int
    info: dict[str | tuple[int, int], object]  # `exif` and `xmp`, in the form of Pillow's
    scan: int  # position of the first scan's marker
    plain: bool  # True if there are no bytes between the segments

    def needs_all_coefficients(self, encoded: bytes) -> bool:
        """Whether the decoder keeps the coefficients of all pixels: if a scan lacks some channels or some bits."""
        return self.frame in PROGRESSIVE or encoded[self.scan + 4] < self.channels


def read_jpeg(encoded: bytes, room: Room, reduce: bool) -> Picture:
    """A JPEG: by simplejpeg if it has one or three channels; by Pillow if it has four, or an odd header.

    `reduce`: decode at 1/4 or 1/8 if the shortest side keeps at least twice `RESIZE_SIDE`.
    """
    header = _read_header(encoded)
    width, height = header.width, header.height
    # Not 2: it saves little time and changes the pixels.
    factors = (8, 4) if reduce and header.frame != LOSSLESS else ()
    factor = next((factor for factor in factors if min(height, width) >= factor * 2 * RESIZE_SIDE), 1)
    if header.needs_all_coefficients(encoded):
        room.take(width, height)
        if _walk_scans(encoded, header.scan)[0] > MAX_SCANS:
            raise Rejected("too_large", width, height)
    else:
        room.take(width, height, ceil(height / factor) * ceil(width / factor))
    orientation = read_orientation_of_info(header.info)
    if not header.plain:
        encoded = _strip(encoded, header)
        header = _read_header(encoded)
    if header.channels == 4:
        return _decode_by_pillow(encoded, header, room, orientation)
    try:
        pixels_HWC = _decode_by_simplejpeg(encoded, header, factor)
    except ValueError as error:
        message = str(error)
        if any(words in message for words in FOR_PILLOW) or not _accepts_header(encoded):
            return _decode_by_pillow(encoded, header, room, orientation)
        if "Premature end of JPEG file" in message or encoded.find(b"\xff\xd9", header.scan) < 0:
            raise Rejected("truncated", width, height) from error
        raise Rejected("corrupt", width, height) from error
    return Picture(pixels_HWC, height, width, factor, orientation, (width, height))


def _decode_by_pillow(encoded: bytes, header: Header, room: Room, orientation: int) -> Picture:
    otherwise = "unsupported" if header.frame == LOSSLESS else "corrupt"  # lossless: its colours cannot be converted
    return read_with_pillow(_strip(encoded, header), JpegImageFile, room, orientation, otherwise)


def _decode_by_simplejpeg(encoded: bytes, header: Header, factor: int) -> np.ndarray:
    """uint8 RGB [height, width, 3] at 1/factor. Raises ValueError with libjpeg's first message, also for a warning."""
    for _ in range(3):
        try:
            return _decode(encoded, header, factor)
        except ValueError as error:
            extraneous = EXTRANEOUS.search(str(error))
            if not extraneous:
                raise
        # Bytes behind the last line do no harm, but they could hide that lines are missing: decode without them. There
        # may be more of them than libjpeg counted, because it counts FF 00 as one byte.
        _, end = _walk_scans(encoded, header.scan)
        encoded = encoded[:end].rstrip(b"\xff")[: -int(extraneous[1])] + b"\xff\xd9"
    return _decode(encoded, header, factor)


def _decode(encoded: bytes, header: Header, factor: int) -> np.ndarray:
    grey = header.frame == LOSSLESS and header.channels == 1  # libjpeg does not convert it
    pixels_HWC = simplejpeg.decode_jpeg(encoded, "GRAY" if grey else "RGB", strict=True, min_factor=factor,
                                        min_height=ceil(header.height / factor), min_width=ceil(header.width / factor))
    return np.repeat(pixels_HWC, 3, axis=2) if grey else pixels_HWC


def _accepts_header(encoded: bytes) -> bool:
    """Whether simplejpeg accepts the header. It refuses odd sampling, for example, or a profile in parts."""
    try:
        simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return False
    return True


def _read_header(encoded: bytes) -> Header:
    """The header. Raises Rejected if it ends before the first scan, or has no frame that can be decoded."""
    frame, bits, height, width, channels = 0, 0, 0, 0, 0
    exif: list[bytes] = []
    info: dict[str | tuple[int, int], object] = {}
    at, plain = 2, True
    for marker, start, end in _segments(encoded):
        plain &= start == at
        at = end
        if marker == APP1:
            segment = encoded[start + 4 : end]
            if segment.startswith(b"Exif\0\0"):
                exif.append(segment[6:])
            elif segment.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                info["xmp"] = segment.split(b"\0", 1)[1]
        elif marker in FRAMES and not frame and end - start >= 10:
            frame = marker
            bits, height, width, channels = struct.unpack_from(">BHHB", encoded, start + 4)
    if marker == SOS and end > len(encoded):
        raise Rejected("truncated")
    if marker != SOS or not frame:
        raise Rejected("not_an_image")
    if frame not in DECODED or bits != 8 or channels not in (1, 3, 4):
        raise Rejected("unsupported", width, height)
    if exif:
        info["exif"] = b"Exif\0\0" + b"".join(exif)
    return Header(frame, width, height, channels, info, start, plain)


def _segments(encoded: bytes) -> list[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the first scan's. Raises Rejected if the file ends before it."""
    segments: list[tuple[int, int, int]] = []
    at = 2
    while len(segments) < MAX_SEGMENTS:
        start = at
        word, size = _unpack_head(encoded, at) if at + 5 <= len(encoded) else (0, 0)
        # A marker stands here for most segments; otherwise search.
        if not 0xFFDA <= word < 0xFFFF and not 0xFFC0 <= word < 0xFFD0:
            match = MARKER.search(encoded, at)
            if not match:
                raise Rejected("truncated")
            start, word = match.start(), 0xFF00 | encoded[match.end() - 1]
            size = int.from_bytes(encoded[start + 2 : start + 4])
        at = start + 2 + max(2, size)
        segments.append((word & 0xFF, start, at))
        if word & 0xFF in LAST:
            return segments
        if at + 5 > len(encoded):
            raise Rejected("truncated")
    raise Rejected("too_large")


def _strip(encoded: bytes, header: Header) -> bytes:
    """The JPEG without the bytes between its segments, and without the segments that no decoder needs."""
    needed = (encoded[start:end] for marker, start, end in _segments(encoded) if marker != SOS
              and (marker in (APP0, APP14) or (not APP0 <= marker <= APP15 and marker != COM)))
    return b"\xff\xd8" + b"".join(needed) + encoded[header.scan :]


def _walk_scans(encoded: bytes, at: int) -> tuple[int, int]:
    """The number of scans of the first image, at most MAX_SCANS + 1; the position of its end marker, or of its end."""
    num_scans = 0
    for _ in range(MAX_SEGMENTS):
        match = MARKER.search(encoded, at)
        if not match:
            return num_scans, len(encoded)
        start, marker = match.start(), encoded[match.start() + 1]
        if marker == EOI:
            return num_scans, start
        num_scans += marker == SOS
        if num_scans > MAX_SCANS:
            break
        at = start + 2 + int.from_bytes(encoded[start + 2 : start + 4])
    return MAX_SCANS + 1, at
