"""One JPEG -> its pixels, perhaps at a smaller scale: by libjpeg-turbo through simplejpeg, or by Pillow.

In: the bytes of a JPEG; what follows the end of its first image is not looked at. Out: a `Picture`, uint8 RGB, not
upright; `Rejected` for what is cut, damaged, of another process than libjpeg's, or of too many scans.
Not here: reading EXIF (`exif.py`); this file only finds it.

Markers are as in ITU T.81 B.1.1.2: before each there may be any number of bytes FF, and libjpeg passes over other bytes
too. Such a header is written anew for the decoders.
"""

from __future__ import annotations

import re
import struct
from math import ceil
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.images.exif import orientation_in
from pipeline.images.pillow import read_with_pillow
from pipeline.images.preprocess import Picture
from pipeline.images.room import Rejected, Room
from pipeline.model.spec import RESIZE_SIDE

MOST_SCANS = 100  # of a JPEG in several; encoders make about ten, and each goes over all pixels
MOST_SEGMENTS = 10_000  # before the first scan, and after it; the parts of a 64 MiB profile are 1,000

# What libjpeg-turbo says (its jerror.h) of a scan's odd header that does not harm the pixels, and of colours that
# simplejpeg does not leave as they are: Pillow decodes those.
FOR_PILLOW = ("Invalid SOS parameters", "Unsupported color conversion")
EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")  # the end marker: all lines are there

_unpack_head = struct.Struct(">HH").unpack_from
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # of a segment; restarts and TEM (1) stand alone
SOI, EOI, SOS, APP0, APP1, APP14, APP15, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
LAST = (SOI, EOI, SOS)  # of a header; the first two end it too early
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # the last is JPEG-LS
PROGRESSIVE, LOSSLESS = (0xC2, 0xCA), 0xC3
DECODED = (0xC0, 0xC1, *PROGRESSIVE, LOSSLESS, 0xC9)  # 0xC9 and 0xCA are arithmetic coding


class Header(NamedTuple):
    """What stands before the first scan."""

    frame: int  # of `FRAMES`
    width: int
    height: int
    channels: int
    info: dict[str | tuple[int, int], object]  # `exif` and `xmp` as Pillow's
    scan: int  # where the first scan's marker is
    plain: bool  # nothing stands between the segments

    def holds_all(self, encoded: bytes) -> bool:
        """Whether the decoder keeps the coefficients of all pixels: where a scan has not all channels, or all bits."""
        return self.frame in PROGRESSIVE or encoded[self.scan + 4] < self.channels


def read_jpeg(encoded: bytes, room: Room, reduce: bool) -> Picture:
    """Grey and three colours by simplejpeg; four colours and odd headers by Pillow.

    `reduce`: at 1/4 or 1/8 if the shortest side keeps at least twice `RESIZE_SIDE`.
    """
    header = _read_header(encoded)
    width, height = header.width, header.height
    factors = (8, 4) if reduce and header.frame != LOSSLESS else ()  # not 2: it saves little for what it changes
    factor = next((factor for factor in factors if min(height, width) >= factor * 2 * RESIZE_SIDE), 1)
    if header.holds_all(encoded):
        room.take(width, height)
        if _walk_scans(encoded, header.scan)[0] > MOST_SCANS:
            raise Rejected("too_large", width, height)
    else:
        room.take(width, height, ceil(height / factor) * ceil(width / factor))
    orientation = orientation_in(header.info)
    if not header.plain:
        encoded = _lean(encoded, header)
        header = _read_header(encoded)
    if header.channels == 4:
        return _by_pillow(encoded, header, room, orientation)
    try:
        pixels_HWC = _by_simplejpeg(encoded, header, factor)
    except ValueError as error:
        said = str(error)
        if any(words in said for words in FOR_PILLOW) or not _knows_header(encoded):
            return _by_pillow(encoded, header, room, orientation)
        if "Premature end of JPEG file" in said or encoded.find(b"\xff\xd9", header.scan) < 0:
            raise Rejected("truncated", width, height) from error
        raise Rejected("corrupt", width, height) from error
    return Picture(pixels_HWC, height, width, factor, orientation, (width, height))


def _by_pillow(encoded: bytes, header: Header, room: Room, orientation: int) -> Picture:
    otherwise = "unsupported" if header.frame == LOSSLESS else "corrupt"  # with colours that libjpeg cannot convert
    return read_with_pillow(_lean(encoded, header), JpegImageFile, room, orientation, otherwise)


def _by_simplejpeg(encoded: bytes, header: Header, factor: int) -> np.ndarray:
    """uint8 RGB [height, width, 3] at 1/factor; ValueError with what libjpeg says first, be it but a warning."""
    for _ in range(3):
        try:
            return _decode(encoded, header, factor)
        except ValueError as error:
            extraneous = EXTRANEOUS.search(str(error))
            if not extraneous:
                raise
        # Bytes after the last line harm nothing, but may stand for lines that are missing: see without them. libjpeg
        # counts FF 00 as one while it looks for codes, so that there may be more of them.
        _, end = _walk_scans(encoded, header.scan)
        encoded = encoded[:end].rstrip(b"\xff")[: -int(extraneous[1])] + b"\xff\xd9"
    return _decode(encoded, header, factor)


def _decode(encoded: bytes, header: Header, factor: int) -> np.ndarray:
    grey = header.frame == LOSSLESS and header.channels == 1  # which libjpeg does not convert
    pixels_HWC = simplejpeg.decode_jpeg(encoded, "GRAY" if grey else "RGB", strict=True, min_factor=factor,
                                        min_height=ceil(header.height / factor), min_width=ceil(header.width / factor))
    return np.repeat(pixels_HWC, 3, axis=2) if grey else pixels_HWC


def _knows_header(encoded: bytes) -> bool:
    """Whether simplejpeg has nothing against what stands before the first scan: odd sampling, a profile in parts."""
    try:
        simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return False
    return True


def _read_header(encoded: bytes) -> Header:
    """`Rejected` if it ends before the first scan, has no frame, or one that is not decoded."""
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
    """Marker, start and end of each segment, up to that of the first scan; `Rejected` if the file ends before."""
    found: list[tuple[int, int, int]] = []
    at = 2
    while len(found) < MOST_SEGMENTS:
        start = at
        word, size = _unpack_head(encoded, at) if at + 5 <= len(encoded) else (0, 0)
        if not 0xFFDA <= word < 0xFFFF and not 0xFFC0 <= word < 0xFFD0:  # most are; search for the others
            match = MARKER.search(encoded, at)
            if not match:
                raise Rejected("truncated")
            start, word = match.start(), 0xFF00 | encoded[match.end() - 1]
            size = int.from_bytes(encoded[start + 2 : start + 4])
        at = start + 2 + max(2, size)
        found.append((word & 0xFF, start, at))
        if word & 0xFF in LAST:
            return found
        if at + 5 > len(encoded):
            raise Rejected("truncated")
    raise Rejected("too_large")


def _lean(encoded: bytes, header: Header) -> bytes:
    """The same without what stands between its segments, and without those that no decoder needs."""
    needed = (encoded[start:end] for marker, start, end in _segments(encoded) if marker != SOS
              and (marker in (APP0, APP14) or not APP0 <= marker <= APP15 and marker != COM))
    return b"\xff\xd8" + b"".join(needed) + encoded[header.scan :]


def _walk_scans(encoded: bytes, at: int) -> tuple[int, int]:
    """How many scans the first image has, counted no further than too many; where its end marker is, or would be."""
    num_scans = 0
    for _ in range(MOST_SEGMENTS):
        found = MARKER.search(encoded, at)
        if not found:
            return num_scans, len(encoded)
        start, marker = found.start(), encoded[found.start() + 1]
        if marker == EOI:
            return num_scans, start
        num_scans += marker == SOS
        if num_scans > MOST_SCANS:
            break
        at = start + 2 + int.from_bytes(encoded[start + 2 : start + 4])
    return MOST_SCANS + 1, at
