"""EXIF and XMP -> the orientation of an image, the same as Pillow's `ImageOps.exif_transpose` finds.

In: a file that Pillow has opened, or the `info` of such a file. Out: 1 to 8, EXIF's numbers. If Pillow cannot read the
EXIF, the orientation is 1: upright.
Not here: finding the EXIF in a file (`jpeg.py`, `png.py`); turning pixels (`preprocess.py`).
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Mapping

from PIL import Image

from pipeline.images.preprocess import UPRIGHT

ORIENTATION = 274

_IGNORE_PILLOW = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # the entry that `filterwarnings` makes
_lock = threading.Lock()


def read_orientation(image: Image.Image) -> int:
    """The orientation of a file that Pillow has opened. A TIFF must not be loaded yet: loading removes its tags."""
    silence_pillow()
    try:
        value = image.getexif().get(ORIENTATION, 1)
        return int(value) if value in UPRIGHT else 1
    except Exception as error:  # Pillow raises a dozen kinds of errors for broken EXIF
        if isinstance(error, MemoryError):
            raise
        return 1


def read_orientation_of_info(info: Mapping[str | tuple[int, int], object]) -> int:
    """The orientation of an image by Pillow's `info` alone: its keys `exif`, `xmp` and others."""
    if not info:
        return 1
    image = Image.Image()
    image.info = dict(info)
    return read_orientation(image)


def silence_pillow() -> None:
    """Switch off all warnings of Pillow, whatever filters exist."""
    # `warnings.catch_warnings` is not thread safe. A filter for PIL's own modules that stays in place is.
    with _lock:
        if warnings.filters[:1] != [_IGNORE_PILLOW]:  # first use, or other filters stand before ours
            warnings.filterwarnings("ignore", module=r"PIL\.")
